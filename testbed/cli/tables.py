"""Campaign results and plans as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.analysis.classes import classes_told
from testbed.analysis.confidence import interval_name

Record = Mapping[str, Any]
_TITLES = {"tier": "by confidence tier", "kind": "by site kind", "bit_class": "by bit class"}


def summary_tables(summary: Record, folder: Path) -> RenderableType:
    """What ran, whether the gates hold, and the rates with n and interval."""
    parts: list[RenderableType] = [*_head(summary)]
    legs = dict.fromkeys((m["target"], m["where"]) for m in summary["marginals"])
    for target, where in legs:
        parts += ["", _rates(summary, target, where)]
    if summary.get("exposure"):
        parts += ["", *_failure_rate(summary)]
    parts += ["", Text(summary["statement"], style="dim"), f"report: {folder / 'report.html'}"]
    return Group(*parts)


def _head(summary: Record) -> Iterable[RenderableType]:
    model, engine, zero, drift = (summary[key] for key in ("model", "engine", "zero_fault", "drift"))
    faults, rows = summary["faults"], summary["rows"]
    yield Text.assemble(
        (summary["name"], "bold"), f": {faults:,} faults, {rows:,} rows (fault x image), seed {summary['seed']}"
    )
    yield (
        f"model   {model['preset']} on {summary['data']['name']}, {model['parameters']:,} parameters,"
        f" test accuracy {100 * model['test_accuracy']:.2f} % of {model['test_images']}{_guessing(model)}"
    )
    if told := summary["data"].get("preprocess_told"):
        yield f"input   {told}"
    for change in model.get("changes", ()):
        yield f"        {change}"
    for absent in model.get("not_there", ()):
        yield f"        not there: {absent['site']}, {absent['why']}"
    yield (
        f"engine  {engine['backend']} {engine['precision']}, batch {engine['batch']}, {engine['threads']} thread(s),"
        f" {engine['hash']}, deployed model {engine['deployment_id']}"
    )
    yield (
        f"gates   {zero['rows']:,} zero-fault rows, {zero['mismatches']} not bit-identical;"
        f" plain to twin {drift['max_abs_diff']:.2g} (bound {drift['bound']:.2g})"
    )
    yield from _decided(summary)
    yield f"images  {'; '.join(_tier_text(tier) for tier in summary['tiers'])}"
    if "images" in summary:
        yield f"named   {classes_told(summary['images']['classes'], len(summary['data']['classes']))}"
    yield f"speed   {summary['injections_per_second']:,.0f} injections/s, {summary['wall_seconds']:.1f} s"


def _decided(summary: Record) -> Iterable[str]:
    """What the gates chose by themselves, and the weights that they left out."""
    yield from (f"note    {note}" for note in summary.get("notes", ()))
    reasons: dict[str, list[str]] = {}
    for left_out in summary.get("left_out", ()):
        name = left_out["site"] if left_out["target"] == "model" else f"{left_out['target']}: {left_out['site']}"
        reasons.setdefault(left_out["reason"], []).append(name)
    yield from (f"left out {len(names)} weights ({', '.join(names)}): {why}" for why, names in reasons.items())


def _guessing(model: Record) -> str:
    return " (no more than guessing gives)" if model.get("no_better_than_guessing") else ""


def _tier_text(tier: Record) -> str:
    thin = " (thin: wide intervals)" if tier["thin"] else ""
    return f"{interval_name(tier['low'], tier['high'])} {tier['images']} of {tier['available']}{thin}"


def _rates(summary: Record, target: str, where: str) -> Table:
    records = [m for m in summary["marginals"] if (m["target"], m["where"]) == (target, where)]
    has_classes = any(m["rates"]["sdc1"] for m in records)
    confidence = f"{100 * summary['confidence']:g} %"
    noun = "activations" if where == "activation" else "weights"
    table = Table(title=f"{target}: faults in {noun}, rates in % with {confidence} intervals", title_justify="left")
    for name in ("", "faults", "n", *(["SDC-1"] if has_classes else []), "outside tolerance", "non-finite"):
        table.add_column(name, justify="right" if name in ("faults", "n") else "left", no_wrap=True)
    for record in records:
        if record["by"] == "all":
            _add(table, f"{record['op']}, all", record, has_classes, style="bold")
    first = records[0]["op"]
    for by, title in _TITLES.items():
        part = [m for m in records if m["by"] == by and m["op"] == first]
        if len(part) > 1:
            table.add_section()
            table.add_row(f"{first}, {title}", style="italic")
            for record in part:
                _add(table, f"  {_value(summary, by, record['value'])}", record, has_classes)
    return table


def _failure_rate(summary: Record) -> Iterable[RenderableType]:
    """Contributions to the failure rate, of all exposed sites together."""
    from testbed.report.failure_rate import contribution_text, not_sampled_text, totals_of
    from testbed.report.formatting import amount

    told = summary["exposure"]
    confidence = f"{100 * summary['confidence']:g} %"
    table = Table(title=f"exposed sites, in {told['unit']} with {confidence} intervals", title_justify="left")
    for name in ("", "exposure", "SDC-1", "outside tolerance", "non-finite"):
        table.add_column(name, justify="right" if name == "exposure" else "left", no_wrap=True)
    totals = list(totals_of(told))
    for number, (name, record) in enumerate(totals):
        if number == len(told["models"]):
            table.add_section()
        cells = [contribution_text(record.get(measure)) for measure in ("sdc1", "outside", "nonfinite")]
        table.add_row(name, amount(record["outside"]["exposure"]), *cells)
    yield table
    missing = list(dict.fromkeys(site for model in told["models"] for site in model.get("not_sampled", ())))
    if missing:
        yield not_sampled_text(missing)


def _value(summary: Record, by: str, value: Any) -> str:
    if by != "tier":
        return str(value)
    tier = summary["tiers"][value]
    return f"{interval_name(tier['low'], tier['high'])}{' thin' if tier['thin'] else ''}"


def _add(table: Table, name: str, record: Record, has_classes: bool, style: str | None = None) -> None:
    rates = record["rates"]
    cells = [_rate(rates[key]) for key in ("sdc1", "outside", "nonfinite") if key != "sdc1" or has_classes]
    table.add_row(name, f"{record['faults']:,}", f"{record['n']:,}", *cells, style=style)


def _rate(rate: Record | None) -> str:
    if rate is None:
        return ""
    return f"{100 * rate['rate']:6.2f} [{100 * rate['low']:.2f}, {100 * rate['high']:.2f}]"


def plan_tables(plan: Record) -> RenderableType:
    """What a campaign would do."""
    table = Table(title=f"plan of {plan['name']}: nothing was run", title_justify="left")
    for name in ("target", "place", "sites", "strata", "faults per stratum", "faults", "rows", "population", "time"):
        table.add_column(name, justify="left" if name in ("target", "place") else "right")
    widths = Table(
        title=f"half-width of a rate of 50 %, in points, {100 * plan['confidence']:g} %", title_justify="left"
    )
    for name in ("target", "place", "operation", "over everything", "over one site", "over the rarest bit class"):
        widths.add_column(name, justify="left" if name in ("target", "place", "operation") else "right")
    for section in plan["sections"]:
        least, most = section["faults_per_stratum"]["least"], section["faults_per_stratum"]["most"]
        table.add_row(
            section["target"],
            section["where"],
            str(section["sites"]),
            f"{section['strata']:,}",
            str(least) if least == most else f"{least} to {most}",
            f"{section['faults']:,}",
            f"{section['rows']:,}",
            f"{section['population']:,}",
            f"{section['estimated_seconds']:.0f} s",
        )
        for op, half in section["half_width"].items():
            cells = [f"{100 * half[cell]:.1f}" for cell in ("all", "site", "bit_class")]
            widths.add_row(section["target"], section["where"], op, *cells)
    total = (
        f"{plan['faults']:,} faults, {plan['rows']:,} rows on {plan['images']} images;"
        f" about {plan['estimated_seconds']:.0f} s of engine time here, after {plan['training_epochs']} epochs of training"
    )
    return Group(table, widths, total)
