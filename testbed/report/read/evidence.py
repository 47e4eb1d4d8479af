"""What the report is made from: the run folder's summary and manifest, checked and indexed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.campaign.files import PLAN, RESULTS
from testbed.campaign.summary.record import Marginal, Summary, load_summary
from testbed.campaign.summary.summarise import SUMMARY
from testbed.core.fault import OPS
from testbed.core.folder.runfolder import RunFolder
from testbed.core.formats import FORMATS, Format, format_named
from testbed.core.site import SiteTable, Where
from testbed.protect.paired.record import ProtectionComparison
from testbed.protect.paired.stored import read_comparison
from testbed.report.estimate import RateEstimate
from testbed.sweep.record import SweepRecord
from testbed.sweep.run import read_sweep

if TYPE_CHECKING:
    from testbed.sensitivity.campaign_lens.record import LensRecord

READ_FILES = (PLAN, RESULTS, SUMMARY)
Value = str | int | None


def bits_of(name: str) -> str:
    """What rates by bit are told by, of one number format."""
    return f"bit of {name}"


class Marginals:
    """The summary's rates, found by what they are a rate of."""

    def __init__(self, records: Iterable[Marginal]) -> None:
        self._records: dict[tuple[str, str, str, str], dict[Value, Marginal]] = {}
        for record in records:
            by = bits_of(record.format) if record.format else record.by
            self._records.setdefault((record.target, record.where, record.op, by), {})[record.value] = record

    def estimate(
        self, target: str, where: Where, op: str, measure: str, by: str = "all", value: Value = None
    ) -> RateEstimate | None:
        """None where nothing was sampled, or where the measure has no meaning for the target."""
        records = self._records.get((target, where, op, by), {})
        record = next(iter(records.values()), None) if by == "all" else records.get(value)
        rate = None if record is None else record.rate(measure)
        if record is None or rate is None:
            return None
        return RateEstimate(rate.rate, rate.low, rate.high, record.faults, record.n, rate.high_95, rate.high_99)

    def values(self, target: str, where: Where, op: str, by: str) -> list[Value]:
        return list(self._records.get((target, where, op, by), {}))

    def bit_formats(self, target: str, where: Where, op: str) -> list[Format | None]:
        """Number formats that rates are told by bit of; [None] of a summary that tells no format."""
        known = [key[3] for key in self._records if key[:3] == (target, where, op)]
        formats: list[Format | None] = [FORMATS[name] for name in FORMATS if bits_of(name) in known]
        return formats or ([None] if "bit" in known else [])

    def ops(self, target: str, where: Where) -> list[str]:
        """Fault models that were run: single faults in their usual order, then what strikes more, as it was asked for."""
        ops = [op for t, w, op, by in self._records if (t, w, by) == (target, where, "all")]
        return sorted(ops, key=lambda op: OPS.index(op) if op in OPS else len(OPS))

    def main_op(self, target: str, where: Where) -> str | None:
        """The fault model that the figures show: single bit flips, where there are any."""
        return next(iter(self.ops(target, where)), None)


@dataclass(frozen=True)
class Evidence:
    run: Path
    summary: Summary
    manifest: Mapping[str, Any]
    marginals: Marginals
    sweep: SweepRecord | None = None
    """Of these very results; None where there is none."""
    lens: LensRecord | None = None
    """Likewise."""
    comparison: ProtectionComparison | None = None
    """With the campaign of the protected model, where a [protect] table asked for one."""

    @property
    def format(self) -> Format:
        """Number format of the struck words."""
        return format_named(self.summary.engine.precision)

    @property
    def classes(self) -> list[str]:
        return self.summary.data.classes

    def site_table(self, target: str) -> SiteTable | None:
        path = self.run / f"{target}.sites.json"
        return SiteTable.load(path) if path.is_file() else None


def read_evidence(run: Path) -> Evidence:
    """Raises UsageError for a folder without a run, StaleArtefact naming a missing, edited or foreign file."""
    folder = RunFolder.existing(run)
    for file in READ_FILES:
        folder.verify_file(file)
    summary = load_summary(run / SUMMARY)
    marginals = Marginals(summary.marginals)
    added = read_sweep(folder), read_stored_lens(folder), read_comparison(folder)
    return Evidence(run, summary, folder.manifest, marginals, *added)


def read_stored_lens(folder: RunFolder) -> LensRecord | None:
    """The last fault lens of these very results; None where there is none. Raises StaleArtefact if edited."""
    if folder.record("lens") is None:  # or torch would be loaded for every page
        return None
    from testbed.sensitivity.campaign_lens.record import read_lens

    return read_lens(folder)
