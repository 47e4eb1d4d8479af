"""What an engine is fed for planned faults: one injection per (fault, image)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Injections
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.plan.table import PlanSlice
from testbed.core.arrays import Words32
from testbed.core.site import SiteTable
from testbed.instrument.ports.feed import NO_SITE


def injections_of(plan_slice: PlanSlice, table: SiteTable, images: NamedImages) -> tuple[NDArray[np.int64], Injections]:
    """(n,) which fault of the plan slice each strike belongs to, and the strikes, their golden words still unknown (0).

    A persistent fault strikes every named image, or those that were drawn for it, in their order; any other the one it was
    drawn for.
    """
    places = plan_slice.points.feed(table)
    fault, image = images.of_faults(plan_slice.table)
    return fault, Injections(image, places.take(fault))


def with_golden_words(injections: Injections, words: Words32) -> Injections:
    """Adds the golden words to injections. words: (entries,) golden words of the struck elements, strike after strike,
    as `words_of` counts them."""
    ports = injections.ports
    golden = np.zeros(ports.site.shape, np.uint32)
    golden[ports.site != NO_SITE] = words
    return Injections(injections.image, ports.with_golden(golden))
