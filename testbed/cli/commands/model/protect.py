"""``testbed protect``: a model rewritten so that faults are corrected or detected, in a run folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.commands.model.protect_tradeoff import weigh_protection
from testbed.cli.commands.results.protect_compare import compare_protected
from testbed.cli.common import emit, example, json_option, say
from testbed.cli.groups import DefaultGroup
from testbed.cli.options.data import classes_option, preprocess_option
from testbed.cli.options.numbers import Number, Whole
from testbed.cli.options.placement import placement_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.cli.tables.fitting import FittedTable
    from testbed.protect.checks.activations import ActivationCheck
    from testbed.protect.passes.range import NanPolicy
    from testbed.protect.placement.placing import Placement
    from testbed.protect.record import PlannedProtection, ProtectedRun
    from testbed.protect.run import ProtectRequest


@click.group(
    cls=DefaultGroup,
    default="run",
    short_help="Rewrite a model so that faults are corrected or detected.",
    epilog=example("testbed protect runs/vit --with range,checksum --to runs/vit-protected"),
)
def protect() -> None:
    """Rewrite a model so that faults are corrected or detected while it runs, and say what that bought."""


@protect.command(
    epilog=example(
        "testbed protect runs/vit --with range --to runs/vit-range",
        "testbed protect runs/vit --with checksum,nonfinite --engine ort-cpu,openvino --to runs/vit-checked",
        "testbed protect runs/vit --with range,checksum --where range:*.mlp.residual,*.attn.v --margin 1.5 \\\n"
        "        --precision fp32,fp16 --to runs/vit-both",
        "testbed protect vit.onnx --with checksum --data cifar10 --preprocess imagenet --to vit-checked.onnx",
        "testbed protect runs/vit --with duplicate --where block.0.attn --vote --to runs/vit-voted --dry-run",
        "testbed protect runs/vit --with range --by measured --campaign runs/flips --budget 5% --to runs/vit-guarded",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--with",
    "passes",
    required=True,
    metavar="PASS,...",
    help="range: bring values back into the range that was seen. checksum: hold sums of every product against what they"
    " must be. duplicate: compute parts twice and compare. nonfinite: flag NaN and infinity.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="[PASS:]PATTERN,...",
    help="Sites of all passes, or of one (parts of duplicate: block.N, block.N.attn, block.N.mlp); '!' leads what is left"
    " out. By default each pass's own; under --budget range may stand at every site.",
)
@placement_options
@click.option(
    "--margin", type=Number(0, 1e6), default=1.3, show_default=True, help="range: how much wider than what was seen."
)
@click.option(
    "--nan", type=click.Choice(["zero", "keep"]), default="zero", show_default=True, help="range: what becomes of NaN."
)
@click.option("--vote", is_flag=True, help="duplicate: compute parts three times, and let the majority go on.")
@click.option(
    "--factor",
    type=Number(0, 1e6),
    default=4.0,
    show_default=True,
    help="checksum: a threshold over the largest deviation that was seen without a fault.",
)
@click.option(
    "--activations",
    type=click.Choice(["recompute", "range"]),
    default="recompute",
    show_default=True,
    help="checksum: compute activation functions twice, or only hold their sums against where they lay.",
)
@click.option(
    "--unsigned",
    is_flag=True,
    help="checksum: int8 activations as uint8, so that ONNX Runtime keeps its fused products.",
)
@click.option(
    "--precision", "precisions", default="fp32", show_default=True, metavar="P,...", help="fp32, fp16, bf16, int8."
)
@click.option(
    "--engine",
    "engines",
    default="ort-cpu",
    show_default=True,
    metavar="E,...",
    help="Engines that thresholds hold on, and that the result is checked on.",
)
@click.option(
    "--calibration-images", type=Whole(2), default=256, show_default=True, help="Training images that are measured on."
)
@click.option(
    "--calibration-data",
    metavar="D",
    default="train",
    help="Another data set to measure on; by default the model's own.",
)
@click.option(
    "--images", type=Whole(1), default=1000, show_default=True, help="Test images that the result is held against."
)
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New run folder, or new file."
)
@click.option("--data", metavar="D", help="Of an ONNX file: the data set that its model is for.")
@click.option("--root", metavar="DIR", help="Of an ONNX file: the data folder.")
@preprocess_option("the data set's own")
@classes_option
@click.option(
    "--dry-run", is_flag=True, help="Say what would be added; nothing is written, and measured only under --budget."
)
@json_option
def run(
    folder: Path,
    passes: str,
    where: tuple[str, ...],
    margin: float,
    nan: NanPolicy,
    vote: bool,
    factor: float,
    activations: ActivationCheck,
    unsigned: bool,
    precisions: str,
    engines: str,
    calibration_images: int,
    calibration_data: str,
    images: int,
    to: Path,
    data: str | None,
    root: str | None,
    preprocess: str | None,
    classes: str | None,
    dry_run: bool,
    budget: dict[str, Any] | None,
    as_json: bool,
) -> None:
    """Rewrite the exported file of the model in DIR, and write it as a model like any other; or an ONNX file of others, in
    the precision that it computes in, into another file.

    It exports, gets goldens, campaigns and latency. Bounds and thresholds are measured on training images; on test images
    it is then checked that outputs and accuracy stay, that no alarm is false, and that a fault put under every check is
    seen, on every engine that is named. Weights stay what they are.
    """
    from testbed.protect.foreign import file_data, plan_file, protect_file
    from testbed.protect.named import passes_named, patterns_by_pass
    from testbed.protect.placement.placing import PlacementRequest
    from testbed.protect.run import ProtectRequest, plan_protection, protect_run

    names = passes.split(",")
    chosen = passes_named(
        names,
        patterns_by_pass(names, where),
        margin=margin,
        nan=nan,
        vote=vote,
        factor=factor,
        activations=activations,
        unsigned=unsigned,
        under_budget=budget is not None,
    )
    request = ProtectRequest(
        chosen,
        tuple(precisions.split(",")),
        tuple(engines.split(",")),
        calibration_images,
        calibration_data,
        images,
        None if budget is None else PlacementRequest(**budget),
    )
    of_file = file_data(folder, data, root, preprocess, classes)
    if dry_run:
        planned = plan_file(folder, request, of_file) if of_file else plan_protection(folder, request, say)
        emit(planned, as_json, lambda: _with_placement(planned.placement, _planned(planned, request)))
        return
    done = protect_file(folder, to, request, of_file, say) if of_file else protect_run(folder, to, request, say)
    emit(done, as_json, lambda: _with_placement(done.placement, _table(done), _tier_lines(done)))


protect.add_command(compare_protected)
protect.add_command(weigh_protection)


def _with_placement(
    placement: Placement | None, table: FittedTable, lines: tuple[RenderableType, ...] = ()
) -> RenderableType:
    """The table and lines about it, below the table of the places that were weighed."""
    from testbed.cli.tables.prose import stacked

    if placement is None:
        return stacked([table, *lines]) if lines else table
    from testbed.cli.tables.placement import placement_lines, placement_table

    return stacked([placement_table(placement), *placement_lines(placement), table, *lines])


def _tier_lines(done: ProtectedRun) -> tuple[RenderableType, ...]:
    """False alarms by tier, of every engine."""
    from testbed.cli.tables.prose import Prose
    from testbed.cli.tables.protection import tiers_line

    return tuple(
        Prose(f"false alarms, {file.precision}, {each.engine}, {tiers_line(each.alarms_by_tier)}", indent=3)
        for file in done.files
        for each in file.ensured.unchanged
        if each.alarms_by_tier
    )


def _planned(planned: PlannedProtection, request: ProtectRequest) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title=f"would be added to {planned.source}; nothing was written")
    for name in ("pass", "places", "of them", "left out"):
        table.add_column(name)
    for name, places in planned.passes.items():
        shown = ", ".join(places[:6]) + (", ..." if len(places) > 6 else "")
        table.add_row(name, str(len(places)), shown, ", ".join(planned.left_out[name]) or "-")
    return table


def _table(done: ProtectedRun) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title=f"{done.source}, protected: {done.run}")
    for name in (
        "precision",
        "passes",
        "nodes",
        "engine",
        "images",
        "same bits",
        "largest change",
        "accuracy %",
        "false alarms",
        "left out",
    ):
        table.add_column(name, justify="left" if name in ("precision", "passes", "engine") else "right")
    for file in done.files:
        passes = ", ".join(f"{p.name} {len(p.places)}" for p in file.applied)
        sites = ", ".join(f"{p.name} {len(p.left_out)}" for p in file.applied if p.left_out)
        unseen = {canary.engine: len(canary.unseen) for canary in file.ensured.canaries}
        for each in file.ensured.unchanged:
            weights = f"weights {unseen[each.engine]}" if unseen.get(each.engine) else ""
            alarms = "-" if each.false_alarms is None else f"{each.false_alarms} (at most {each.false_alarm_bound:.2g})"
            before, after = (f"{100 * share[0]:.2f}" for share in (each.accuracy_before, each.accuracy))
            table.add_row(
                file.precision,
                passes,
                f"{file.nodes[0]} to {file.nodes[1]}",
                each.engine,
                f"{each.n:,}",
                f"{each.identical:,}",
                f"{each.largest:.3g}",
                f"{before} to {after}",
                alarms,
                ", ".join(filter(None, (sites, weights))) or "-",
            )
    return table
