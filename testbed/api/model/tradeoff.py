"""Models side by side, from Python: accuracy, latency and vulnerability."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from testbed.api.model.results import ModelResult
from testbed.core.words import html

Folder = str | os.PathLike[str]


class ModelComparison(ModelResult):
    """Models side by side, with a recommendation."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per model: accuracy, median latency, SDC-1 with its interval, and whether it is on the Pareto front."""
        rows = []
        for entry in self.record.entries:
            hit = entry.vulnerability
            rows.append(
                {
                    "model": entry.model,
                    "accuracy": entry.quality.top1,
                    "p50_ms": entry.latency[0].p50_ms,
                    "sdc1": None if hit is None else hit.rate,
                    "sdc1_low": None if hit is None else hit.low,
                    "sdc1_high": None if hit is None else hit.high,
                    "pareto": entry.pareto,
                }
            )
        return pd.DataFrame(rows)

    @property
    def recommended(self) -> str:
        """The recommended model; `why` says why."""
        return str(self.record.recommended)

    @property
    def why(self) -> str:
        """Why it is recommended."""
        return str(self.record.why)

    def _repr_html_(self) -> str:
        rows = [
            (row["model"], f"{100 * row['accuracy']:.2f}", f"{row['p50_ms']:.3g}", "yes" if row["pareto"] else "")
            for row in self.table.to_dict("records")
        ]
        return (
            html.heading(f"Models side by side, batch {self.record.batch}")
            + html.table(("model", "accuracy %", "p50 ms", "Pareto front"), rows)
            + html.paragraph(self.why)
        )


def compare_models(
    models: Sequence[Folder],
    campaigns: Sequence[Folder] = (),
    to: Folder | None = None,
    *,
    engine: str = "ort-cpu",
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32",
    batch: int | Sequence[int] = (1, 32),
    threads: int = 1,
    seconds: float = 3.0,
    runs: int = 100,
    allowed_drop: float = 0.01,
    report: Callable[[str], None] = lambda line: None,
) -> ModelComparison:
    """Put models side by side: accuracy, latency and, from their campaigns, SDC-1; the first is the baseline.

    Args:
        models: Run folders.
        campaigns: Finished campaigns of some of the models.
        to: Folder for metrics.json, tradeoff.png and tradeoff.html. Default: nothing is written.
        engine: Of latency and accuracy.
        precision: Of its file.
        batch: Images per run; of several, the first is what counts.
        threads: Of the engine.
        seconds: Per engine and batch, or ...
        runs: ... so many runs, whichever is less; 6 at least.
        allowed_drop: Of accuracy, from 0 to 1, that a recommended model may have.
        report: Called with a line of progress now and then.

    Returns:
        The comparison, with the Pareto front and a recommendation that says why.

    Raises:
        UsageError: For a folder without a model, and for a campaign of none of the models.
        EngineError: Where an engine cannot be built.

    Example:
        ```py
        compared = testbed.compare_models(["runs/digits", "runs/half"], to="runs/tradeoff")
        print(compared.table, compared.why)
        ```
    """
    from testbed.bench.latency import Question
    from testbed.bench.timing import LEAST_ROUNDS, Budget
    from testbed.bench.tradeoff import tradeoff
    from testbed.core.errors import UsageError
    from testbed.report.tradeoff import write_tradeoff

    folders, batches = [Path(model) for model in models], (batch,) if isinstance(batch, int) else tuple(batch)
    if not folders or not batches or min(batches) < 1:
        raise UsageError("name one model at least, and images per run: 1 or more")
    question = Question(engine, precision, batches, threads, Budget(seconds=seconds, runs=max(runs, LEAST_ROUNDS)))
    comparison = tradeoff(folders, [Path(campaign) for campaign in campaigns], question, allowed_drop, report)
    if to is not None:
        write_tradeoff(Path(to), comparison)
    return ModelComparison(comparison)
