"""Results about models as objects: rankings, smaller models, latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from testbed.api.records import StudyResult
from testbed.core.words import html

if TYPE_CHECKING:
    from testbed.bench.latency import LatencyRow
    from testbed.prune.run import Pruned
    from testbed.sensitivity.rank.ranking import CheckedRanking, Ranking


_NO_COLUMNS = ("latency_ms", "options", "phases_ms", "ratio_to_baseline")


@dataclass(frozen=True, eq=False)
class ComponentRanking(StudyResult):
    """Scores of a model's components.

    Attributes:
        content: The record with fields instead of keys: `ranking.content.scores[0].component`.
    """

    content: Ranking

    @property
    def scores(self) -> pd.DataFrame:
        """One row per component: rank, component, score, and its sites in a campaign; the first matter most."""
        table = pd.DataFrame(self.content.scores).sort_values("score", ascending=False, ignore_index=True)
        table.insert(0, "rank", range(1, len(table) + 1))
        return table

    def _repr_html_(self) -> str:
        rows = [(row["rank"], row["component"], f"{row['score']:.4g}") for row in self.scores.to_dict("records")]
        kind = self.content.kind
        return html.heading(f"{kind}s by {self.content.by}, the first matter most") + html.table(
            ("rank", kind, "score"), rows
        )


@dataclass(frozen=True, eq=False)
class RankingValidation(StudyResult):
    """Scores held against what a campaign measured.

    Attributes:
        content: The record with fields instead of keys: `validation.content.by["eap"].spearman_true.low`.
    """

    content: CheckedRanking

    @property
    def correlations(self) -> pd.DataFrame:
        """One row per score: Spearman, Kendall and top-k overlap with intervals, each with the rates as measured and, as
        `spearman_true` and so on, with the true rates; the control, p-value alone and corrected for the number of
        comparisons, and the verdict."""
        rows = []
        for by, validation in self.content.by.items():
            row: dict[str, Any] = {"by": by}
            names = ("spearman", "kendall", "top_k", "spearman_true", "kendall_true", "top_k_true")
            for name, interval in ((name, getattr(validation, name)) for name in names):
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            others = ("control", "passed", "verdict", "p_value", "p_adjusted", "comparisons")
            rows.append(row | {name: getattr(validation, name) for name in others})
        return pd.DataFrame(rows)

    @property
    def measured(self) -> pd.DataFrame:
        """One row per component: its measured rate with interval, faults and share."""
        return pd.DataFrame(self.content.measured)

    def _repr_html_(self) -> str:
        rows = []
        for by, validation in self.content.by.items():
            p = validation.p_adjusted
            values = (validation.spearman_true.value, validation.spearman.value)
            cells = ("not defined" if value is None else f"{value:.2f}" for value in values)
            rows.append((by, *cells, "" if p is None else f"{p:.2g}", validation.verdict))
        return html.heading(f"Scores of {self.content.kind}s against {self.content.campaign}") + html.table(
            ("score", "Spearman", "as measured", "p, corrected", ""), rows
        )


@dataclass(frozen=True, eq=False)
class PruneResult(StudyResult):
    """Smaller models, one per amount.

    Attributes:
        content: The record with fields instead of keys: `pruned.content[0].kept.heads`.
    """

    content: Sequence[Pruned]

    @property
    def models(self) -> pd.DataFrame:
        """One row per smaller model: its folder, amount, parameters, MACs and test accuracy, before and after."""
        return pd.DataFrame([{k: v for k, v in pruned.to_json().items() if k != "kept"} for pruned in self.content])

    def _repr_html_(self) -> str:
        rows = [
            (
                pruned.run,
                f"{pruned.amount:g}",
                f"{pruned.macs / pruned.macs_before:.3f}",
                f"{100 * pruned.accuracy:.2f}",
            )
            for pruned in self.content
        ]
        before = 100 * self.content[0].accuracy_before
        return html.heading(f"Pruned from {before:.2f} % test accuracy") + html.table(
            ("run", "amount", "of the MACs", "accuracy %"), rows
        )


@dataclass(frozen=True, eq=False)
class LatencyResult(StudyResult):
    """Latencies of plain engines, measured side by side.

    Attributes:
        content: The record with fields instead of keys: `latency.content[0].p50_ms`.
    """

    content: Sequence[LatencyRow]

    @property
    def table(self) -> pd.DataFrame:
        """One row per model and batch size; `ratio` is to the baseline's median, with `ratio_low` and `ratio_high`."""
        rows = []
        for row in self.content:
            ratio = row.ratio_to_baseline
            ends = (None, None, None) if ratio is None else (ratio.value, ratio.low, ratio.high)
            plain = {key: value for key, value in row.to_json().items() if key not in _NO_COLUMNS}
            rows.append(plain | dict(zip(("ratio", "ratio_low", "ratio_high"), ends, strict=True)))
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        rows = [
            (row.model, row.batch, f"{row.p50_ms:.3g}", f"{row.p99_ms:.3g}", f"{row.throughput_per_s:.4g}")
            for row in self.content
        ]
        first = self.content[0]
        return html.heading(f"{first.engine}, {first.precision}, {first.threads} thread(s)") + html.table(
            ("model", "batch", "p50 ms", "p99 ms", "images/s"), rows
        )
