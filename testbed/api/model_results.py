"""Results about models as objects: rankings, smaller models, latencies."""

from __future__ import annotations

from typing import Any

import pandas as pd

from testbed.api.records import StudyResult
from testbed.core.words import html


class ComponentRanking(StudyResult):
    """Scores of a model's components."""

    @property
    def scores(self) -> pd.DataFrame:
        """One row per component: rank, component, score, and its sites in a campaign; the first matter most."""
        table = pd.DataFrame(list(self.record["scores"])).sort_values("score", ascending=False, ignore_index=True)
        table.insert(0, "rank", range(1, len(table) + 1))
        return table

    def _repr_html_(self) -> str:
        rows = [(row["rank"], row["component"], f"{row['score']:.4g}") for row in self.scores.to_dict("records")]
        kind = self.record["kind"]
        return html.heading(f"{kind}s by {self.record['by']}, the first matter most") + html.table(
            ("rank", kind, "score"), rows
        )


class RankingValidation(StudyResult):
    """Scores held against what a campaign measured."""

    @property
    def correlations(self) -> pd.DataFrame:
        """One row per score: Spearman, Kendall and top-k overlap with intervals, the control, and the verdict."""
        rows = []
        for by, validation in self.record["by"].items():
            row: dict[str, Any] = {"by": by}
            for name in ("spearman", "kendall", "top_k"):
                interval = getattr(validation, name)
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(
                row | {"control": validation.control, "passed": validation.passed, "verdict": validation.verdict}
            )
        return pd.DataFrame(rows)

    @property
    def measured(self) -> pd.DataFrame:
        """One row per component: its measured rate with interval, faults and share."""
        return pd.DataFrame(list(self.record["measured"]))

    def _repr_html_(self) -> str:
        rows = [
            (row["by"], "not defined" if row["spearman"] is None else f"{row['spearman']:.2f}", row["verdict"])
            for row in self.correlations.to_dict("records")
        ]
        return html.heading(f"Scores of {self.record['kind']}s against {self.record['campaign']}") + html.table(
            ("score", "Spearman", ""), rows
        )


class PruneResult(StudyResult):
    """Smaller models, one per amount."""

    @property
    def models(self) -> pd.DataFrame:
        """One row per smaller model: its folder, amount, parameters, MACs and test accuracy, before and after."""
        return pd.DataFrame([{k: v for k, v in run.items() if k != "kept"} for run in self.record["runs"]])

    def _repr_html_(self) -> str:
        rows = [
            (
                run["run"],
                f"{run['amount']:g}",
                f"{run['macs'] / run['macs_before']:.3f}",
                f"{100 * run['accuracy']:.2f}",
            )
            for run in self.record["runs"]
        ]
        before = 100 * self.record["runs"][0]["accuracy_before"]
        return html.heading(f"Pruned from {before:.2f} % test accuracy") + html.table(
            ("run", "amount", "of the MACs", "accuracy %"), rows
        )


class LatencyResult(StudyResult):
    """Latencies of plain engines, measured side by side."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per model and batch size; `ratio` is to the baseline's median, with `ratio_low` and `ratio_high`."""
        rows = []
        for row in self.record["rows"]:
            ratio = row["ratio_to_baseline"] or {}
            plain = {
                k: v for k, v in row.items() if k not in ("latency_ms", "options", "phases_ms", "ratio_to_baseline")
            }
            rows.append(
                plain | {"ratio": ratio.get("value"), "ratio_low": ratio.get("low"), "ratio_high": ratio.get("high")}
            )
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        rows = [
            (
                row["model"],
                row["batch"],
                f"{row['p50_ms']:.3g}",
                f"{row['p99_ms']:.3g}",
                f"{row['throughput_per_s']:.4g}",
            )
            for row in self.record["rows"]
        ]
        first = self.record["rows"][0]
        return html.heading(f"{first['engine']}, {first['precision']}, {first['threads']} thread(s)") + html.table(
            ("model", "batch", "p50 ms", "p99 ms", "images/s"), rows
        )
