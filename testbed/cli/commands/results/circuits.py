"""``testbed circuits``: how faithful a model's circuits are, and which edges matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.cli.options.numbers import Number, Whole
from testbed.cli.options.scores import ScoreOptionValues, score_options
from testbed.cli.options.types import GridOption, WordsOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.sensitivity.circuit_study.records import BootstrapInterval, CircuitMethod, CircuitStudy
    from testbed.sensitivity.circuit_study.study import CircuitPlan
    from testbed.sensitivity.circuits.faithfulness import TaskMetric

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=example(
        "testbed circuits runs/vit --to circuits",
        "testbed circuits runs/vit --by eap-ig --ablation resample --over 500 --json",
        "testbed circuits runs/vit --by eap --no-curves --edges 20 --to circuits",
        "testbed circuits runs/vit --by eap --corrupt masked --masks masks --dry-run",
    )
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option(
    "--by",
    type=WordsOption("acdc", "eap", "eap-ig"),
    default="acdc,eap,eap-ig",
    show_default=True,
    help="Scores whose order gives the circuits.",
)
@click.option(
    "--components", "kinds", default="head,chunk", show_default=True, help="What circuits are of: head, chunk, neuron."
)
@click.option("--curves/--no-curves", default=True, show_default=True, help="Measure circuits of every size.")
@click.option(
    "--metric",
    type=click.Choice(["logit_difference", "log_probability"]),
    default="logit_difference",
    show_default=True,
    help="What a circuit is to keep.",
)
@click.option(
    "--over", type=Whole(2), default=256, show_default=True, metavar="N", help="Test images to measure circuits on."
)
@click.option("--shares", type=GridOption(), metavar="A,B,...", help="Sizes of circuits, as shares of the components.")
@click.option("--orders", type=Whole(1, 1000), default=10, show_default=True, help="Random orders, as a baseline.")
@click.option(
    "--edges", type=Whole(1), metavar="N", help="Also score edges by eap and eap-ig, and print the N largest."
)
@click.option("--to", type=_FOLDER, metavar="DIR", help="Write JSON, CSV and the figure there.")
@click.option(
    "--tau", type=Number(), default=0.05, show_default=True, help="acdc: what is taken away for good, in nats."
)
@click.option("--dry-run", is_flag=True, help="Say how much would be measured; measures and writes nothing.")
@score_options
@json_option
def circuits(
    folder: Path,
    by: tuple[str, ...],
    kinds: str,
    curves: bool,
    metric: TaskMetric,
    over: int,
    shares: tuple[float, ...] | None,
    orders: int,
    edges: int | None,
    to: Path | None,
    tau: float,
    dry_run: bool,
    settings: ScoreOptionValues,
    as_json: bool,
) -> None:
    """Measure how faithful the circuits of the model in DIR are over their size; with --edges, score its edges.

    A circuit is the components that a score puts first; all others are ablated. CPR is the area under its faithfulness
    (larger is better), CMD that under its distance from 1 (0 is best), both with intervals over test images and beside
    random orders of the components. Scores are measured on validation images.
    """
    from testbed.cli.progress import progress_on_stderr
    from testbed.sensitivity.circuit_study.study import CircuitRequest, plan_circuits, study_circuits
    from testbed.sensitivity.circuits.faithfulness import SHARES

    request = CircuitRequest(
        methods=cast("tuple[CircuitMethod, ...]", by),
        kinds=tuple(kinds.split(",")),
        settings=settings.made(tau=tau),
        metric=metric,
        over=over,
        shares=SHARES if shares is None else shares,
        orders=orders,
        curves=curves,
        edges=edges is not None,
    )
    if dry_run:
        plan = plan_circuits(folder, request)
        emit(plan, as_json, lambda: _plan_text(plan))
        return
    study = study_circuits(
        folder, request, to, notify=say, progress=lambda total: progress_on_stderr(total, "circuits")
    )
    emit(study.to_json(), as_json, lambda: _text(study, edges or 0))


def _plan_text(plan: CircuitPlan) -> list[str]:
    return [
        f"would score {plan.components} components on {plan.analysis_images:,} images of {plan.data}",
        f"circuits of {', '.join(map(str, plan.sizes))} components: {plan.circuits:,} to measure on"
        f" {plan.images:,} test images, {plan.passes:,} forward passes; nothing was written",
    ]


def _text(study: CircuitStudy, edges: int) -> RenderableType:
    from testbed.cli.tables.prose import stacked

    parts: list[RenderableType] = [_area_table(study)] if study.curves else []
    parts += [curve.verdict for curve in study.curves if curve.verdict]
    parts += [_edge_table(study, by, edges) for by in study.scores if by != "acdc" and edges]
    return stacked([*parts, *(f"written: {path}" for path in study.files)])


def _area_table(study: CircuitStudy) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(
        title=f"faithfulness ({study.metric.replace('_', ' ')}) of circuits of {study.components} components,"
        f" {study.settings['ablation']} ablation, {study.images:,} test images, {100 * study.confidence:g} % intervals"
    )
    for name in ("order", "CPR", "CMD", "CPR gain", "CMD gain", "random as good"):
        table.add_column(name, justify="left" if name == "order" else "right")
    for curve in study.curves:
        share = "" if curve.random_as_good is None else f"{100 * curve.random_as_good:.0f} %"
        gains = [_interval(gain) for gain in (curve.cpr_gain, curve.cmd_gain)]
        table.add_row(curve.by, _interval(curve.cpr), _interval(curve.cmd), *gains, share)
    return table


def _interval(interval: BootstrapInterval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _edge_table(study: CircuitStudy, by: str, count: int) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    scored = [edge for edge in study.edges if edge.by == by]
    shown = scored[:count]
    table = FittedTable(title=f"edges by {by}, the {len(shown)} largest of {len(scored):,}")
    for name in ("rank", "from", "to", "score"):
        table.add_column(name, justify="left" if name in ("from", "to") else "right")
    for position, edge in enumerate(shown, 1):
        table.add_row(str(position), edge.source, edge.reader, f"{edge.score:.4g}")
    return table
