"""A study in class space on a terminal: a table per analysis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import stacked

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.analysis.shares import MeanEstimate
    from testbed.sensitivity.class_space.explain.curves import PerturbationCurve
    from testbed.sensitivity.class_space.identifiability import Identifiability, StateIdentifiability
    from testbed.sensitivity.class_space.memories import Memories
    from testbed.sensitivity.class_space.perturbation import PerturbationEffect
    from testbed.sensitivity.class_space.probe import ProbeAccuracy
    from testbed.sensitivity.class_space.settings import ClassSpacePlan
    from testbed.sensitivity.class_space.study import ClassSpaceStudy


def plan_text(plan: ClassSpacePlan) -> RenderableType:
    """What would be run."""
    table = _table(f"{plan.run} on {plan.data}: nothing is run", "analysis", "test images", "passes")
    for planned in plan.analyses:
        table.add_row(planned.analysis, f"{planned.images:,}", f"{planned.passes:.3g}")
    runs = sum(planned.images * planned.passes for planned in plan.analyses)
    lines = [f"about {runs:,.0f} images through the model, {plan.batch} at a time"]
    return stacked([table, *lines, *_positions_text(plan), *_left_out(plan)])


def study_text(study: ClassSpaceStudy, to: Path, files: int) -> RenderableType:
    """Everything that fits on a page; the files hold the rest."""
    parts: list[RenderableType] = []
    if study.identifiability is not None:
        parts += _identifiability_text(study.identifiability, study.random_weights)
    if study.memories is not None:
        parts.append(_memories_table(study.memories))
    if study.perturbations is not None:
        parts.append(_perturbation_table(study.perturbations))
    if study.curves is not None:
        parts.append(_curves_table(study.curves))
    if study.probes is not None:
        parts.append(_probe_table(study.probes))
    level = f"{100 * study.settings.confidence:g} % intervals over images; {files} files in {to}"
    return stacked([*parts, level, *_left_out(study.plan)])


def _identifiability_text(measured: Identifiability, random: Identifiability | None) -> Iterator[RenderableType]:
    kinds = list(dict.fromkeys(entry.tokens for entry in measured.states))
    mean, rate = measured.chance
    for kind in kinds:
        title = f"class identifiability of {kind} tokens after each block, %"
        table = _table(
            title, "block", "mean", "rank 0", "random weights: mean", "rank 0", "attention lifts", "MLP lifts"
        )
        for block in sorted({entry.block for entry in measured.states}):
            entry = measured.state(block, "block", kind)
            baseline = None if random is None else random.state(block, "block", kind)
            changes = {c.branch: c.rises for c in measured.changes if (c.block, c.tokens) == (block, kind)}
            lifts = [_cell(changes[branch]) if branch in changes else "-" for branch in ("attention", "mlp")]
            table.add_row(str(block), *_pair(entry), *_pair(baseline), *lifts)
        yield table
    yield (
        f"accuracy {_cell(measured.accuracy)} % of {measured.accuracy.images:,} images; chance: mean {100 * mean:.2f} %,"
        f" rank 0 {100 * rate:.2f} %"
    )


def _memories_table(memories: Memories) -> FittedTable:
    title = "memories: largest cosine of class and value, and share of image tokens whose keys agree, %"
    columns = (
        "block",
        "branch",
        "memories",
        "cosine",
        "random weights",
        "p (Holm)",
        "keys agree",
        "another class",
        "chance",
    )
    table = _table(title, *columns)
    agreements = {(a.block, a.branch): a for a in memories.key_value if a.tokens == "image"}
    for layer in memories.class_value:
        keys = agreements[layer.block, layer.branch]
        cosines = (f"{layer.mean:.3f}", f"{layer.random_mean:.3f}", f"{layer.p_holm:.2g}")
        shares = (_cell(keys.agreement), _cell(keys.other_class), f"{100 * keys.chance:.2f}")
        table.add_row(str(layer.block), layer.branch, f"{layer.memories:,}", *cosines, *shares)
    return table


def _perturbation_table(effects: tuple[PerturbationEffect, ...]) -> FittedTable:
    title = "perturbations, and the last block's image tokens, %"
    table = _table(title, "perturbation", "images", "accuracy", "change", "mean", "rank 0")
    for effect in effects:
        last = next(entry for entry in effect.last_block if entry.tokens == "image")
        change = "" if effect.name == "none" else _cell(effect.accuracy_change, "+")
        table.add_row(effect.name, f"{effect.accuracy.images:,}", _cell(effect.accuracy), change, *_pair(last))
    return table


def _curves_table(curves: tuple[PerturbationCurve, ...]) -> FittedTable:
    images = curves[0].area.images
    title = f"accuracy while tokens are dropped, mean along the curve, {images:,} images, %"
    columns = ("relevance", "most relevant first", "better than random", "least relevant first", "better than random")
    table = _table(title, *columns)
    by_key = {(curve.method, curve.order): curve for curve in curves}
    for method in dict.fromkeys(curve.method for curve in curves):
        pairs = [by_key[method, "most_first"], by_key[method, "least_first"]]
        cells = [cell for curve in pairs for cell in (_cell(curve.area), _cell(curve.better_than_random, "+"))]
        if method == "random":
            cells[1] = cells[3] = ""
        table.add_row(method, *cells)
    return table


def _probe_table(probes: tuple[ProbeAccuracy, ...]) -> FittedTable:
    """Per state: the first position, the pooled image tokens where they were probed, and the mean over token positions."""
    first = probes[0]
    title = f"linear probes, {first.shots} images of each class, accuracy on {first.accuracy.images:,} test images, %"
    positions = list(dict.fromkeys(row.position for row in probes))
    shown = [positions[0]] + ["pooled"] * ("pooled" in positions[1:])
    labels = ["pooled" if position == "pooled" else f"position {position}" for position in shown] + ["mean"]
    states = ("attention", "mlp", "block")
    table = _table(title, "block", *(f"{state}, {label}" for state in states for label in labels))
    for block in sorted({row.block for row in probes}):
        cells = []
        for state in states:
            rows = {row.position: row.accuracy for row in probes if (row.block, row.state) == (block, state)}
            tokens = [accuracy.value for position, accuracy in rows.items() if position != "pooled"]
            cells += [_cell(rows[position]) if rows else "-" for position in shown]
            cells.append(f"{100 * sum(tokens) / len(tokens):.1f}" if tokens else "-")
        table.add_row(str(block), *cells)
    return table


def _positions_text(plan: ClassSpacePlan) -> list[str]:
    """Which positions are probed, where these are not all."""
    if "pooled" not in plan.probe_positions:
        return []
    return [f"probes at positions {', '.join(map(str, plan.probe_positions))}"]


def _left_out(plan: ClassSpacePlan) -> list[str]:
    return [f"left out: {analysis}: {why}" for analysis, why in plan.left_out.items()]


def _table(title: str, *columns: str) -> FittedTable:
    """The first column is the key; the others hold numbers."""
    table = FittedTable(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 or name == "branch" else "right")
    return table


def _pair(entry: StateIdentifiability | None) -> tuple[str, str]:
    return ("-", "-") if entry is None else (_cell(entry.identifiability), _cell(entry.rate))


def _cell(estimate: MeanEstimate, sign: str = "") -> str:
    """A percentage with its interval."""
    if not estimate.images:
        return "-"
    value, low, high = (100 * end for end in (estimate.value, estimate.low, estimate.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
