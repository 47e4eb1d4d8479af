"""A stored fault through the blocks, as a table for people."""

from __future__ import annotations

from rich.console import RenderableType

from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import stacked
from testbed.sensitivity.fault_lens import ABSORBED, FaultLens, StateChange


def lens_table(lens: FaultLens) -> RenderableType:
    """What the fault is, a line for each state, and where it takes over, is repaired or absorbed."""
    fault = lens.fault
    what = fault.op if fault.bit is None else f"{fault.op} of bit {fault.bit}"
    head = (
        f"fault {fault.fault_id}: {what} at {fault.site}[{fault.words[0].index[0]}], image {fault.image_id}, label"
        f" {fault.label}, stored outcome {fault.stored_outcome or 'none yet'}"
    )
    table = FittedTable(title="golden -> faulty, through the model's own norm and head")
    for name in ("after", "tokens changed", "deviation %", "class", "rank of the label", "tokens of another class"):
        table.add_column(name, justify="left" if name == "after" else "right")
    for block in lens.blocks:
        other = sum(token.golden_class != token.faulty_class for token in block.tokens)
        table.add_row(
            block.after,
            f"{len(block.tokens)} of {lens.token_count}",
            _deviation(block),
            f"{_class(block.golden_class)} -> {_class(block.faulty_class)}",
            f"{block.golden_rank} -> {block.faulty_rank}",
            str(other),
        )
    return stacked([head, table, *_verdict(lens)])


def _class(number: int) -> str:
    return "none" if number < 0 else str(number)


def _deviation(state: StateChange) -> str:
    return "not finite" if state.deviation is None else f"{100 * state.deviation:.3g}"


def _verdict(lens: FaultLens) -> list[str]:
    if lens.enters is None:
        return ["no state between the blocks differs"]
    lines = [f"the fault is in the stream from {lens.enters} on"]
    if lens.takes_over:
        lines.append(f"it takes over at {lens.takes_over}: from there on the head would say another class")
    if lens.repaired:
        lines.append(f"it is repaired at {lens.repaired}: from there on the head would say the golden class again")
    if lens.absorbed:
        lines.append(
            f"it is absorbed at {lens.absorbed}: what the head reads deviates by less than {100 * ABSORBED:g} %"
        )
    return lines
