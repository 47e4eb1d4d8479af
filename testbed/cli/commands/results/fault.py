"""``testbed fault``: look at the faults of a campaign, one by one or many together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.groups import CommandGroup
from testbed.cli.options.numbers import LARGEST_SEED, Threads, Whole
from testbed.core.fault import OPS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from testbed.campaign.injection import Injection, StoredRow
    from testbed.core.site import Where


@click.group(
    cls=CommandGroup,
    epilog=example(
        "testbed fault replay runs/digits 4711", "testbed fault show runs/digits 4711", "testbed fault lens runs/digits"
    ),
)
def fault() -> None:
    """Look at the faults of a campaign: one again, one from inside, or many together."""


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
    replayed = FaultReplay.of(fault_id, hit, stored)
    emit(replayed.to_json(), as_json, lambda: _fault_lines(replayed))


@fault.command(
    epilog=example(
        "testbed fault show runs/digits 4711", "testbed fault show runs/digits 40123 --image digits/0161 --json"
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("fault_id", type=Whole(0))
@click.option("--image", metavar="ID", help="Which image, for weight faults; an activation fault has its own.")
@json_option
def show(folder: Path, fault_id: int, image: str | None, as_json: bool) -> None:
    """Show what fault FAULT_ID of the campaign in DIR does inside the model, block by block and token by token.

    Golden and faulty states are projected to the classes by the model's own norm and head: where the fault takes over,
    where it is repaired, where it is absorbed. At the faulty site stand the very bits that the campaign stored; the rest
    is the eager model's arithmetic.
    """
    from testbed.cli.tables.fault_lens import lens_table
    from testbed.sensitivity.fault_lens import look_through

    lens = look_through(folder, fault_id, image)
    emit(lens.to_json(), as_json, lambda: lens_table(lens))


@fault.command(
    epilog=example(
        "testbed fault lens runs/digits",
        "testbed fault lens runs/digits --where activation --op flip --sample 1000 --to runs/lens --json",
        "testbed fault lens runs/digits --dry-run",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--sample", type=Whole(1, 1_000_000), default=500, show_default=True, help="Faults to look at, of each fault model."
)
@click.option(
    "--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of the sample and of resampling."
)
@click.option("--where", type=click.Choice(["activation", "weight"]), help="Only faults there.  [default: both]")
@click.option("--op", type=click.Choice(OPS), help="Only faults of this operation.  [default: all]")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the files there instead of into the campaign's folder, where `testbed report` shows them.",
)
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads.")
@click.option("--dry-run", is_flag=True, help="Say what would be looked at; run and write nothing.")
@json_option
def lens(
    folder: Path,
    sample: int,
    seed: int,
    where: Where | None,
    op: str | None,
    to: Path | None,
    threads: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Say of the faults of the finished campaign in DIR how deep they go inside, and what becomes of them.

    A sample of stored faults is looked at as `testbed fault show` does: after how many blocks they are absorbed, which take
    over, which are repaired and where, by kind of site, class of bit, block and outcome. Faults are drawn by outcome and
    weighed back to the campaign's population; intervals are of both draws. All stored rows tell whether the rank of the
    true class at the injected block, without the fault, predicts the outcome. Writes lens.json, two CSV files and a
    picture.
    """
    import torch

    from testbed.cli.progress import progress_on_stderr
    from testbed.cli.tables.campaign_lens import lens_plan_table, lens_tables
    from testbed.sensitivity.campaign_lens.files import lens_campaign
    from testbed.sensitivity.campaign_lens.study import LensSettings, plan_lens

    torch.set_num_threads(threads)
    settings = LensSettings(sample, seed, where, op)
    if dry_run:
        plan = plan_lens(folder, settings)
        emit(plan.to_json(), as_json, lambda: lens_plan_table(plan))
        return
    record = lens_campaign(folder, settings, to, lambda total: progress_on_stderr(total, "images and faults"))
    emit(record.to_json(), as_json, lambda: lens_tables(record, to or folder))


@dataclass(frozen=True, eq=False)
class FaultReplay:
    """A fault that was run again, and the row stored of it. golden_logits, faulty_logits: (K,) float32; None, as in JSON they
    are not there, for a target without classes. same_as_stored: None where nothing is stored yet."""

    fault_id: int
    target: str
    site: str
    index: int
    op: str
    bit: int | None
    image_id: str
    label: int
    value_before: float
    value_after: float
    outcome: str
    engine_hash: str
    stored_outcome: str | None
    same_as_stored: bool | None
    max_abs_diff: float
    golden_logits: NDArray[np.float32] | None
    faulty_logits: NDArray[np.float32] | None

    @classmethod
    def of(cls, fault_id: int, hit: Injection, stored: StoredRow | None) -> FaultReplay:
        """Compare bit for bit where logits are stored, else by outcome."""
        from testbed.analysis.outputs.compare import max_abs_diff

        with_logits = hit.target == "model"
        if with_logits:
            same = None if stored is None or stored.logits is None else stored.logits.tobytes() == hit.faulty.tobytes()
        else:
            same = None if stored is None else stored.outcome == hit.outcome
        return cls(
            fault_id=fault_id,
            target=hit.target,
            site=hit.site,
            index=hit.index,
            op=hit.op,
            bit=hit.bit,
            image_id=hit.image_id,
            label=hit.label,
            value_before=hit.golden_value,
            value_after=hit.faulty_value,
            outcome=hit.outcome,
            engine_hash=hit.engine_hash,
            stored_outcome=stored.outcome if stored else None,
            same_as_stored=same,
            max_abs_diff=float(max_abs_diff(hit.faulty[None], hit.golden[None])[0]),
            golden_logits=hit.golden if with_logits else None,
            faulty_logits=hit.faulty if with_logits else None,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, in the order of the fields; logits only where there are any."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: v for name, v in values.items() if v is not None or not name.endswith("_logits")}


def _fault_lines(replayed: FaultReplay) -> list[str]:
    what = replayed.op if replayed.bit is None else f"{replayed.op} of bit {replayed.bit}"
    lines = [
        f"fault {replayed.fault_id}: {what} at {replayed.site}[{replayed.index}] of target {replayed.target}",
        f"image {replayed.image_id}, label {replayed.label}, engine {replayed.engine_hash}",
        f"value  {replayed.value_before!r} -> {replayed.value_after!r}",
    ]
    if replayed.golden_logits is not None and replayed.faulty_logits is not None:
        lines += ["class        golden        faulty"]
        pairs = zip(replayed.golden_logits, replayed.faulty_logits, strict=True)
        lines += [f"{k:5d}  {golden:12.6g}  {faulty:12.6g}" for k, (golden, faulty) in enumerate(pairs)]
    else:
        lines.append(f"largest deviation of the output {replayed.max_abs_diff:.6g}")
    agreement = {True: "the same as the stored row", False: "NOT what is stored", None: "not yet stored"}
    lines.append(f"outcome {replayed.outcome}: {agreement[replayed.same_as_stored]}")
    return lines
