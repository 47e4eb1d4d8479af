"""Planned activation faults as strikes once more, with the golden words that the plan stored for them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Injections
from testbed.campaign.evaluate.golden_words import golden_words, read_words
from testbed.campaign.evaluate.injections import injections_of, with_golden_words
from testbed.campaign.files import PLAN, words_file
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.plan.units import word_counts
from testbed.core.arrays import Words32


def planned_injections(
    workplace: Workplace, target: str, plan: pa.Table, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Injections]:
    """Injections of chosen rows of the plan. chosen: rows of the plan, activation faults of this target. Returns
    fault_id (n,), and one strike per fault and image: (n,)."""
    plan_slice = PlanSlice(target, "activation", plan.take(pa.array(chosen)), points_path(workplace.folder / PLAN))
    fault, injections = injections_of(plan_slice, workplace.table(target), workplace.images)
    fault_id: NDArray[np.int64] = plan_slice.column("fault_id")[fault]
    return fault_id, with_golden_words(injections, _stored_golden_words(workplace, plan, chosen, plan_slice))


def _stored_golden_words(
    workplace: Workplace, plan: pa.Table, chosen: NDArray[np.int64], plan_slice: PlanSlice
) -> Words32:
    """Golden words as they were stored, or found again where the plan was joined of several rounds'."""
    file = words_file(PLAN)
    if not (workplace.folder / file).exists():
        return golden_words(workplace, plan_slice)
    workplace.folder.verify_file(file)
    counts = word_counts(plan, len(workplace.images))
    starts = np.cumsum(counts) - counts
    stored = read_words(workplace.folder / file)
    words = [np.asarray(stored[starts[fault] : starts[fault] + counts[fault]]) for fault in chosen]
    return np.concatenate([np.zeros(0, np.uint32), *words])
