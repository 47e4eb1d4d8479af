"""Many stored faults at once, as the lens takes them: the plan and its golden words are read once for all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from testbed.campaign.files import PLAN
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.row import rows_of
from testbed.campaign.plan.table import PlanSlice, read_plan
from testbed.campaign.run import Run
from testbed.core.arrays import Int64s
from testbed.sensitivity.campaign_lens.rows import LensRows
from testbed.sensitivity.stored_fault import StoredFault, words_by_site
from testbed.sweep.injections import planned_injections


def read_stored_faults(run: Run, rows: LensRows) -> list[StoredFault]:
    """The fault of each row, on the row's image: what `read_stored_fault` gives for each. A fault has one row at most.

    Raises UsageError for words that are integers.
    """
    plan = read_plan(run.folder / PLAN)
    chosen = np.flatnonzero(np.isin(plan.column("fault_id").to_numpy(), rows.fault_id))
    part = plan.take(pa.array(chosen))
    planned = rows_of(part)
    target, where = planned[0].target, planned[0].where
    table, images = run.sites(target), run.workplace.images
    points = PlanSlice(target, where, part, points_path(run.folder / PLAN)).points
    row_of = {fault_id: number for number, fault_id in enumerate(rows.fault_id.tolist())}
    order = [row_of[fault.fault_id] for fault in planned]
    golden = faulty = None
    if where == "activation":
        fault_id, injections = planned_injections(run.workplace, target, plan, chosen)
        at = _injection_of(fault_id, injections.image, rows, order)
        golden, faulty = injections.ports.golden[at], injections.ports.faulty[at]
    faults: list[StoredFault | None] = [None] * len(rows)
    for number, (row, fault) in enumerate(zip(order, planned, strict=True)):
        image = int(rows.image[row])
        top1 = int(rows.top1[row])
        faults[row] = StoredFault(
            fault_id=fault.fault_id,
            target=target,
            where=where,
            op=fault.op,
            pattern=fault.pattern,
            bit=fault.bit,
            block=table[fault.site].block,
            image_id=images.ids[image],
            label=int(images.labels[image]),
            words=tuple(
                words_by_site(
                    points,
                    number,
                    table,
                    None if golden is None else golden[number],
                    None if faulty is None else faulty[number],
                )
            ),
            stored_outcome=str(rows.outcome[row]),
            stored_top1=top1 if top1 >= 0 else None,
        )
    return [fault for fault in faults if fault is not None]


def _injection_of(fault_id: Int64s, image: Int64s, rows: LensRows, order: list[int]) -> Int64s:
    """(planned faults,) number of the injection on the image that each is looked at on."""
    number = {key: at for at, key in enumerate(zip(fault_id.tolist(), image.tolist(), strict=True))}
    return np.array([number[int(rows.fault_id[row]), int(rows.image[row])] for row in order], np.int64)
