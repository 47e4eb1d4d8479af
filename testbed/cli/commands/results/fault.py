"""``testbed fault``: look at single faults of a campaign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.groups import CommandGroup
from testbed.cli.options.numbers import Whole

if TYPE_CHECKING:
    from testbed.campaign.injection import Injection, StoredRow


@click.group(cls=CommandGroup, epilog=example("testbed fault replay runs/digits 4711"))
def fault() -> None:
    """Look at single faults of a campaign."""


@fault.command(
    epilog=example(
        "testbed fault replay runs/digits 4711", "testbed fault replay runs/digits 40123 --image digits/0161"
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("fault_id", type=Whole(0))
@click.option("--image", metavar="ID", help="Which image, for weight faults; an activation fault has its own.")
@json_option
def replay(folder: Path, fault_id: int, image: str | None, as_json: bool) -> None:
    """Run fault FAULT_ID of the campaign in DIR again, alone, and compare it with the stored row."""
    from testbed.campaign.run import Run

    with Run(folder) as run:
        hit = run.replay(fault_id, image)
        stored = run.stored_row(fault_id, hit.image_id)
    record = _record(fault_id, hit, stored)
    emit(record, as_json, lambda: _fault_lines(record))


def _record(fault_id: int, hit: Injection, stored: StoredRow | None) -> dict[str, Any]:
    from testbed.analysis.outputs.compare import max_abs_diff

    record: dict[str, Any] = {
        "fault_id": fault_id,
        "target": hit.target,
        "site": hit.site,
        "index": hit.index,
        "op": hit.op,
        "bit": hit.bit,
        "image_id": hit.image_id,
        "label": hit.label,
        "value_before": hit.golden_value,
        "value_after": hit.faulty_value,
        "outcome": hit.outcome,
        "engine_hash": hit.engine_hash,
        "stored_outcome": stored.outcome if stored else None,
        "same_as_stored": None,
        "max_abs_diff": float(max_abs_diff(hit.faulty[None], hit.golden[None])[0]),
    }
    if hit.target == "model":
        record |= {"golden_logits": hit.golden, "faulty_logits": hit.faulty}
        if stored and stored.logits is not None:
            record["same_as_stored"] = stored.logits.tobytes() == hit.faulty.tobytes()
    elif stored:
        record["same_as_stored"] = stored.outcome == hit.outcome
    return record


def _fault_lines(record: dict[str, Any]) -> list[str]:
    what = record["op"] if record["bit"] is None else f"{record['op']} of bit {record['bit']}"
    lines = [
        f"fault {record['fault_id']}: {what} at {record['site']}[{record['index']}] of target {record['target']}",
        f"image {record['image_id']}, label {record['label']}, engine {record['engine_hash']}",
        f"value  {record['value_before']!r} -> {record['value_after']!r}",
    ]
    if "golden_logits" in record:
        lines += ["class        golden        faulty"]
        pairs = zip(record["golden_logits"], record["faulty_logits"], strict=True)
        lines += [f"{k:5d}  {golden:12.6g}  {faulty:12.6g}" for k, (golden, faulty) in enumerate(pairs)]
    else:
        lines.append(f"largest deviation of the output {record['max_abs_diff']:.6g}")
    agreement = {True: "the same as the stored row", False: "NOT what is stored", None: "not yet stored"}
    lines.append(f"outcome {record['outcome']}: {agreement[record['same_as_stored']]}")
    return lines
