"""Campaign results and plans as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from testbed.analysis.outputs.classes import classes_told
from testbed.analysis.outputs.confidence import interval_name
from testbed.campaign.preview.records import DryRunReport
from testbed.campaign.summary.protection import ProtectionRecord
from testbed.campaign.summary.record import Summary, SummaryModel, SummaryTier
from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import Prose, stacked
from testbed.cli.tables.protection import protection_tables
from testbed.cli.tables.rates import USUAL, Details, rate_tables
from testbed.core.process.resources import format_bytes
from testbed.report.sections.rounds import design_worth, stop_verdict

if TYPE_CHECKING:
    from testbed.api.running import FinishedCampaign
    from testbed.protect.campaigns.preview import DryRuns


def summary_tables(summary: Summary, folder: Path, details: Details = USUAL) -> RenderableType:
    """What ran, whether the gates hold, and the rates with n and interval."""
    parts: list[RenderableType] = [
        part if isinstance(part, Prose) else Prose(part, indent=8) for part in _head(summary)
    ]
    for part in rate_tables(summary, details):
        parts += [Prose(part)] if isinstance(part, str) else ["", part]
    if not details.by:
        parts += ["", f"of every fault model, by site or bit too: testbed campaign show {folder} --by site,bit"]
    if summary.protection and summary.protection.false_alarms:
        parts += ["", *_protection(summary.protection)]
    if summary.exposure:
        parts += ["", *_failure_rate(summary)]
    parts += ["", Prose(summary.statement, style="dim"), f"report: {folder / 'report.html'}"]
    return stacked(parts)


def _head(summary: Summary) -> Iterable[str | Prose]:
    model, engine, zero, drift = summary.model, summary.engine, summary.zero_fault, summary.drift
    yield Prose(
        f"{summary.name}: {summary.faults:,} faults, {summary.rows:,} rows (fault x image), seed {summary.seed}",
        bold=len(summary.name),
    )
    yield (
        f"model   {model.preset} on {summary.data.name}, {model.parameters:,} parameters,"
        f" test accuracy {100 * model.test_accuracy:.2f} % of {model.test_images:,}{_guessing(model)}"
    )
    if summary.data.preprocess_told:
        yield f"input   {summary.data.preprocess_told}"
    for change in model.changes:
        yield f"        {change}"
    for absent in model.not_there:
        yield f"        not there: {absent.site}, {absent.why}"
    yield (
        f"engine  {engine.backend} {engine.precision}, batch {engine.batch}, {engine.threads} thread(s),"
        f" {engine.hash}, deployed model {engine.deployment_id}"
    )
    yield (
        f"gates   {zero.rows:,} zero-fault rows, {zero.mismatches} not bit-identical;"
        f" plain to twin {drift.max_abs_diff:.2g} (bound {drift.bound:.2g})"
    )
    yield from _decided(summary)
    yield f"images  {'; '.join(tier_text(tier) for tier in summary.tiers)}"
    if stop := stop_verdict(summary.stop, summary.confidence):
        yield f"stop    {stop}"
    if summary.stop is not None and (worth := design_worth(summary.stop)):
        yield f"design  {worth}"
    if summary.images:
        yield f"named   {classes_told(summary.images.classes, len(summary.data.classes))}"
    yield f"speed   {summary.injections_per_second:,.0f} injections/s, {summary.wall_seconds:.1f} s"


def _decided(summary: Summary) -> Iterable[str]:
    """What the gates chose by themselves, and the weights that they left out."""
    yield from (f"note    {note}" for note in summary.notes)
    reasons: dict[str, list[str]] = {}
    for left_out in summary.left_out:
        name = left_out.site if left_out.target == "model" else f"{left_out.target}: {left_out.site}"
        reasons.setdefault(left_out.reason, []).append(name)
    yield from (f"left out {len(names)} weights ({', '.join(names)}): {why}" for why, names in reasons.items())


def _guessing(model: SummaryModel) -> str:
    return " (no more than guessing gives)" if model.no_better_than_guessing else ""


def tier_text(tier: SummaryTier) -> str:
    """A tier's interval and images, in words."""
    thin = " (thin: wide intervals)" if tier.thin else ""
    asked = f", {tier.asked} asked for" if tier.asked else ""
    return f"{interval_name(tier.low, tier.high)} {tier.images:,} of {tier.available:,}{asked}{thin}"


def _failure_rate(summary: Summary) -> Iterable[RenderableType]:
    """Contributions to the failure rate, of all exposed sites together."""
    from testbed.report.formatting import amount
    from testbed.report.sections.failure_rate import contribution_text, not_sampled_text, totals_of

    exposure = summary.exposure
    assert exposure is not None
    confidence = f"{100 * summary.confidence:g} %"
    table = FittedTable(title=f"exposed sites, in {exposure.unit} with {confidence} intervals")
    for name in ("", "exposure", "SDC-1", "outside tolerance", "non-finite"):
        table.add_column(name, justify="right" if name == "exposure" else "left", no_wrap=True)
    totals = list(totals_of(exposure))
    for number, (name, record) in enumerate(totals):
        if number == len(exposure.models):
            table.add_section()
        cells = [contribution_text(record.contribution(measure)) for measure in ("sdc1", "outside", "nonfinite")]
        table.add_row(name, amount(record.outside.exposure), *cells)
    yield table
    if exposure.not_sampled:
        yield not_sampled_text(exposure.not_sampled)


def _protection(protection: ProtectionRecord) -> Iterable[RenderableType]:
    """What the engine's own checks saw."""
    from testbed.report.sections.protection import (
        CHECKED_COLUMNS,
        checked_cells,
        checked_name,
        false_alarms_text,
        second_run_lines,
    )

    table = FittedTable(title="what the engine's own checks saw: alarms, and the share of rows with one")
    for name in ("", *CHECKED_COLUMNS):
        table.add_column(name, justify="right" if name == "alarms" else "left")
    for model in protection.models:
        table.add_row(checked_name(model), *checked_cells(model))
    yield table
    yield false_alarms_text(protection)
    for line in second_run_lines(protection):
        yield f"second runs ({protection.on_detected}): {line}"


def plan_tables(plan: DryRunReport) -> RenderableType:
    """What a campaign would do."""
    table = FittedTable(title=f"plan of {plan.name}: nothing was run")
    for name in ("target", "place", "sites", "strata", "faults per stratum", "faults", "rows", "population", "time"):
        table.add_column(name, justify="left" if name in ("target", "place") else "right")
    widths = FittedTable(title=f"half-width of a rate of 50 %, in points, {100 * plan.confidence:g} %")
    for name in ("target", "place", "operation", "over everything", "over one site", "over the rarest bit class"):
        widths.add_column(name, justify="left" if name in ("target", "place", "operation") else "right")
    for section in plan.sections:
        least, most = section.faults_per_stratum.least, section.faults_per_stratum.most
        table.add_row(
            section.target,
            section.where,
            str(section.sites),
            f"{section.strata:,}",
            str(least) if least == most else f"{least} to {most}",
            f"{section.faults:,}",
            f"{section.rows:,}",
            f"{section.population:,}",
            f"{section.estimated_seconds:.0f} s",
        )
        for op, half in section.half_width.items():
            cells = [f"{100 * width:.1f}" for width in (half.all, half.site, half.bit_class)]
            widths.add_row(section.target, section.where, op, *cells)
    total = (
        f"{plan.faults:,} faults, {plan.rows:,} rows on {plan.images} images;"
        f" about {plan.estimated_seconds:.0f} s of engine time here, {_begins_with(plan)}, and {plan.gate_seconds:.0f} s or"
        f" more before them for the gates, {plan.gate_rows:,} inferences; about {format_bytes(plan.bytes)} of disk"
    )
    notes = [f"warning: {warning}" for warning in plan.warnings]
    notes += [f"not checked: {unchecked}" for unchecked in plan.unchecked]
    return stacked([table, widths, total, *notes])


def _begins_with(plan: DryRunReport) -> str:
    epochs = plan.training_epochs
    return f"after {epochs} epochs of training" if epochs else "on a model that is there already"


# ---- with a [protect] table


def finished_json(done: FinishedCampaign) -> dict[str, Any]:
    """The summary of the plain campaign; with a [protect] table also the comparison."""
    summary = done.summary.to_json()
    return summary if done.comparison is None else {**summary, "comparison": done.comparison.to_json()}


def finished_tables(done: FinishedCampaign, folder: Path) -> RenderableType:
    """The tables of the plain campaign, and what protection bought."""
    summary = summary_tables(done.summary, folder)
    return summary if done.comparison is None else stacked([summary, "", protection_tables(done.comparison, "kind")])


def dry_run_tables(dry: DryRuns) -> RenderableType:
    """What the campaign would do, and then the protected one."""
    plain, protected = plan_tables(dry.plain), dry.protected
    if protected is None:
        return plain
    both = (
        f"both campaigns: {dry.plain.faults + protected.faults:,} faults, {dry.plain.rows + protected.rows:,} rows, about"
        f" {dry.plain.estimated_seconds + protected.estimated_seconds:.0f} s of engine time here"
    )
    return stacked([plain, "", plan_tables(protected), "", both])
