"""Class space from Python: what every hidden state of a model says about the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from testbed.api.progress import ProgressCallback, steps_of
from testbed.api.records import StudyResult
from testbed.core.words import html

Analysis = Literal["identifiability", "memories", "perturbation", "explanation", "probe"]


class ClassSpace(StudyResult):
    """Hidden states of a model, projected to the classes. Every value has `low`, `high` and `images`."""

    @property
    def identifiability(self) -> pd.DataFrame:
        """One row per weights (trained, random), block, state, kind of token and measure."""
        return self._table("identifiability")

    @property
    def similarity_change(self) -> pd.DataFrame:
        """One row per block, branch and kind of token: share of tokens whose true-class logit rises."""
        return self._table("similarity_change")

    @property
    def residual_match(self) -> pd.DataFrame:
        """One row per block, source and kind of token: share of tokens whose top-1 is the source's."""
        return self._table("residual_match")

    @property
    def memories(self) -> pd.DataFrame:
        """One row per block and branch: class-value agreement, that of random weights, and the test's p-values."""
        return self._table("class_value_agreement")

    @property
    def key_value_agreement(self) -> pd.DataFrame:
        """One row per block, branch, kind of token and class (true, other): share of tokens whose keys agree."""
        return self._table("key_value_agreement")

    @property
    def perturbations(self) -> pd.DataFrame:
        """One row per perturbation and measure: accuracy, its change, identifiability of the last block."""
        return self._table("perturbation")

    @property
    def curves(self) -> pd.DataFrame:
        """One row per relevance method, order and share of dropped tokens: accuracy."""
        return self._table("explanation")

    @property
    def areas(self) -> pd.DataFrame:
        """One row per relevance method, order and measure: area under the curve, and by how much it beats random."""
        return self._table("explanation_area")

    @property
    def probes(self) -> pd.DataFrame:
        """One row per block, state and token position: test accuracy of the linear probe."""
        return self._table("probe")

    def _table(self, name: str) -> pd.DataFrame:
        return pd.DataFrame(list(self.record.get(name, [])))

    def _repr_html_(self) -> str:
        heading = html.heading(f"{Path(self.record['run']).name} in class space, on {self.record['data']}")
        rows: list[tuple[Any, ...]] = []
        for row in self.record.get("identifiability", []):
            if (row["weights"], row["state"], row["measure"]) == ("trained", "block", "rate"):
                interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
                rows.append((row["block"], row["tokens"], f"{100 * row['value']:.1f}", interval, row["images"]))
        columns = ("block", "tokens", "true class at rank 0, %", "interval", "images")
        return heading + (html.table(columns, rows) if rows else html.paragraph("Identifiability was not measured."))


def measure_class_space(
    model: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    analyses: Sequence[Analysis] | None = None,
    images: int | None = None,
    baseline_images: int = 1000,
    explain_images: int = 256,
    probe_images: int = 1000,
    shots: int = 10,
    positions: Literal["auto", "all", "cls"] | Sequence[int | Literal["pooled"]] = "auto",
    explain: Literal["true", "predicted"] = "true",
    masks: str | os.PathLike[str] | None = None,
    data: str | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    device: str = "cpu",
    progress: ProgressCallback | None = None,
) -> ClassSpace:
    """Project every hidden state of a model to the classes, and say what they know of the true one.

    Args:
        model: Run folder of a model with a linear head.
        to: Folder for tables (CSV), pictures and `class_space.json`. Default: nothing is written.
        analyses: What is measured. Default: all that the model and its data allow.
        images: Only so many test images: a random choice, by class.
        baseline_images: Images of the same model with random weights.
        explain_images: Images of the perturbation curves.
        probe_images: Test images of the linear probes.
        shots: Training images of each class for a probe.
        positions: Token positions that are probed; 0 is CLS where there is one, `"pooled"` the mean over the image
            tokens. `"auto"` probes all, or for a large model CLS, `"pooled"` and a random sample of image tokens.
        explain: The class that relevance is asked for.
        masks: Which patches are on the object: a folder of `IMAGE-ID.png`, or `"imagenet-s"`.
        data: Data set with training images for the probes, where the model's has test images only.
        seed: Of random weights, choices and random orders.
        confidence: Of the intervals.
        device: `"cpu"`, `"cuda"` or `"auto"`.
        progress: Called with a `Snapshot` now and then.

    Returns:
        The study, with a data frame per table.

    Raises:
        UsageError: For a model without a linear head or of one class, and for what it has no tokens or masks for.

    Example:
        ```py
        space = testbed.measure_class_space("runs/digits", images=200, analyses=["identifiability"])
        print(space.identifiability)
        ```
    """
    from testbed.sensitivity.class_space.artefacts import write_class_space
    from testbed.sensitivity.class_space.settings import ClassSpaceSettings, analyses_named
    from testbed.sensitivity.class_space.study import study_class_space
    from testbed.sensitivity.class_space.tables import record_of

    settings = ClassSpaceSettings(
        analyses=None if analyses is None else analyses_named(analyses),
        images=images,
        baseline_images=baseline_images,
        explain_images=explain_images,
        probe_images=probe_images,
        shots=shots,
        positions=positions if isinstance(positions, str) else tuple(positions),
        explained=explain,
        masks=None if masks is None else os.fspath(masks),
        data=data,
        seed=seed,
        confidence=confidence,
    )
    steps = steps_of(progress, "class space")
    study = study_class_space(Path(model), settings, device=device, progress=lambda total: steps(total, "images"))
    if to is not None:
        write_class_space(Path(to), study)
    return ClassSpace(record_of(study))
