"""Results of studies as objects: the record that `--json` prints, data frames of its parts, a table for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from testbed.core.words import html
from testbed.core.words.text import percent_interval

if TYPE_CHECKING:
    from testbed.ber.record import BitErrorRecord
    from testbed.compare.campaigns import Comparison
    from testbed.protect.paired.record import ProtectionComparison
    from testbed.protect.tradeoff.record import ProtectionTradeoff
    from testbed.sweep.record import SweepRecord


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A result that keeps the whole record.

    Attributes:
        record: Everything, as `--json` prints it.
    """

    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The whole record."""
        return dict(self.record)


@dataclass(frozen=True, eq=False)
class ToleranceSweep(StudyResult):
    """What tolerances would detect and alarm at, per fault model and confidence tier.

    Attributes:
        content: The record with fields instead of keys: `sweep.content.tiers[0].grid[0].false_alarm.rate`.
    """

    content: SweepRecord

    @property
    def grid(self) -> pd.DataFrame:
        """One row per fault model, tier and tolerance, as `--to FILE` writes it."""
        from testbed.sweep.run import grid_table

        return grid_table(self.content)

    @property
    def false_alarms(self) -> pd.DataFrame:
        """One row per fault-free engine and tier: the smallest tolerance without a false alarm, and the bound on its rate."""
        return pd.json_normalize([alarms.to_json() for alarms in self.content.false_alarms])

    def _repr_html_(self) -> str:
        sources = [(source.source, source.target, f"{source.n:,}") for source in self.content.sources]
        detected = f"{100 * self.content.wanted_detection:g} % detection wanted"
        return (
            html.heading(f"Tolerance sweep of {self.content.name}: {detected}")
            + html.table(("fault-free engine", "target", "images"), sources)
            + html.paragraph(f"{len(self.grid):,} points: .grid; false alarms: .false_alarms")
        )


@dataclass(frozen=True, eq=False)
class BitErrorSweep(StudyResult):
    """Accuracy against the bit-error rate of the weights.

    Attributes:
        content: The record with fields instead of keys: `sweep.content.rates[0].accuracy.low`.
    """

    content: BitErrorRecord

    @property
    def rates(self) -> pd.DataFrame:
        """One row per bit-error rate: flips, accuracy, SDC-1 and non-finite outputs with their intervals and one-sided upper
        bounds (`sdc1_high_95`, `sdc1_high_99`); alarms where the engine checks itself."""
        rows = []
        for record in self.content.rates:
            row: dict[str, Any] = {"bit_error_rate": record.rate, "flips": record.flips.mean}
            measures = {"accuracy": record.accuracy, "sdc1": record.sdc1, "nonfinite": record.nonfinite}
            measures |= {} if record.detected is None else {"detected": record.detected}
            for measure, share in measures.items():
                row |= {measure: share.rate, f"{measure}_low": share.low, f"{measure}_high": share.high}
                row |= {f"{measure}_high_95": share.high_95, f"{measure}_high_99": share.high_99}
            rows.append(row)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        rows = [
            (f"{row['bit_error_rate']:g}", f"{row['flips']:,.1f}", *(percent_of(row, m) for m in ("accuracy", "sdc1")))
            for row in self.rates.to_dict("records")
        ]
        return html.heading(f"Bit errors in the weights of {self.content.name}, in %") + html.table(
            ("bit-error rate", "flips", "accuracy", "SDC-1"), rows
        )


@dataclass(frozen=True, eq=False)
class RunComparison(StudyResult):
    """Two campaigns of one model, side by side.

    Attributes:
        content: The record with fields instead of keys: `comparison.content.headline.a[0].rate`.
    """

    content: Comparison

    @property
    def mode(self) -> str:
        """ "engines" within one precision, "precisions" across two."""
        return self.content.mode

    @property
    def headline(self) -> pd.DataFrame:
        """SDC-1 of each fault model of the whole model, with intervals: one row per side."""
        sides = (("a", self.content.headline.a), ("b", self.content.headline.b))
        tables = [pd.DataFrame([line.to_json() for line in lines]).assign(side=side) for side, lines in sides]
        table = pd.concat(tables, ignore_index=True)
        return table[["side", *(name for name in table.columns if name != "side")]]

    @property
    def differences(self) -> pd.DataFrame:
        """Disagreeing rows of two engines, or rates per role of the bit of two precisions, as `--to FILE` writes them."""
        from testbed.compare.campaigns import table_of

        return table_of(self.content)

    def _repr_html_(self) -> str:
        rows = [
            (row["side"], row["where"], row["op"], f"{row['faults']:,}", percent_of(row, "rate", "low", "high"))
            for row in self.headline.to_dict("records")
        ]
        return (
            html.heading(f"Two {self.mode}: A and B")
            + html.table(("", "faults in", "fault", "faults", "SDC-1 %"), rows)
            + "".join(map(html.paragraph, self.content.notes))
        )


@dataclass(frozen=True, eq=False)
class ProtectionProof(StudyResult):
    """What protection bought: a plain and a protected campaign, fault by fault.

    Attributes:
        content: The record with fields instead of keys: `proof.content.groups[0].sdc1.removed.share`.
    """

    content: ProtectionComparison

    @property
    def groups(self) -> pd.DataFrame:
        """One row per fault model and group: SDC-1 and outputs outside the tolerance, before and after."""
        return pd.json_normalize([group.to_json() for group in self.content.groups])

    @property
    def affected(self) -> pd.DataFrame:
        """One row per fault model, group and plain output (such as another top-1): what the checks detect of it."""
        return pd.json_normalize([entry.to_json() for entry in self.content.affected])

    @property
    def second_runs(self) -> pd.DataFrame:
        """One row per fault model and group: images run twice after an alarm, the share that recovered, and what it takes.
        Empty where nothing was run again."""
        return pd.json_normalize([entry.to_json() for entry in self.content.second_runs])

    def _repr_html_(self) -> str:
        rows = [
            (group.where, group.op, f"{group.faults:,}", *(percent_interval(r.rate, r.low, r.high) for r in sides))
            for group in self.content.groups
            if group.by == "all" and group.sdc1 is not None
            for sides in [(group.sdc1.before, group.sdc1.after)]
        ]
        return (
            html.heading(f"Protected by {', '.join(self.content.passes)}: {self.content.pairing.rows:,} rows pair")
            + html.table(("faults in", "fault", "faults", "SDC-1 before, %", "after, %"), rows)
            + "".join(map(html.paragraph, self.content.notes))
        )


@dataclass(frozen=True, eq=False)
class WeighedProtection(StudyResult):
    """What protected models cost against what they leave, with a recommendation.

    Attributes:
        content: The record with fields instead of keys: `weighed.content.models[0].latency[0].ratio`.
    """

    content: ProtectionTradeoff

    @property
    def latency(self) -> pd.DataFrame:
        """One row per model and batch size: the ratio to the plain model's latency, and operations of the file."""
        return self._table("latency")

    @property
    def points(self) -> pd.DataFrame:
        """One row per model, fault model and event: what is left, what was removed, and where the model stands."""
        return self._table("points")

    @property
    def removals(self) -> pd.DataFrame:
        """One row per protected model, fault model and event: the share that was expected to be removed, and what was."""
        return self._table("removals")

    @property
    def curves(self) -> pd.DataFrame:
        """One row per step of hypothetical protection, greedy and exact."""
        return self._table("curves")

    @property
    def recommended(self) -> str | None:
        """Name of the recommended model; None where none keeps to the budget. `why` says why."""
        return self.content.recommended

    @property
    def why(self) -> str:
        """Why it is recommended."""
        return self.content.why

    def _table(self, name: str) -> pd.DataFrame:
        from testbed.publish.tradeoff_files import tradeoff_tables

        return tradeoff_tables(self.content)[name]

    def _repr_html_(self) -> str:
        rows = [
            (point.model, point.where, point.op, point.event, percent_interval(*rate), point.standing)
            for point in self.content.points
            for rate in [(point.left.rate, point.left.low, point.left.high)]
        ]
        return (
            html.heading(f"Protection in {self.content.engine} {self.content.precision}, batch {self.content.batch}")
            + html.table(("model", "faults in", "fault", "event", "left, %", "standing"), rows)
            + html.paragraph(self.why)
        )


def percent_of(row: Mapping[Any, Any], rate: str, low: str | None = None, high: str | None = None) -> str:
    """A rate in % with its interval: "0.89 [0.76, 1.04]"."""
    ends = row[low or f"{rate}_low"], row[high or f"{rate}_high"]
    return percent_interval(row[rate], *ends)
