"""Faults that are settled without being run, and the sample of them that is run all the same.

Where the graph proves that nothing reads a token any more (`testbed.instrument.cut.stages.Stages.dead`), a fault there leaves
every output golden, whatever the numbers are. The proof is about which elements nodes read, not about arithmetic. One of
`SAMPLED` such faults, chosen by what it is, is run by the whole twin in every campaign, so that a proof that is wrong cannot
stay unseen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluator, Injections, same_words
from testbed.campaign.plan.permutation import mixed
from testbed.core.errors import TestbedError
from testbed.core.site import SiteTable
from testbed.instrument.ports.feed import NO_SITE

SAMPLED = 512


class Disproved(TestbedError):
    """A fault that was proven not to reach the output did. No row that rests on such a proof can be trusted."""


def chosen(injections: Injections, rows: NDArray[np.int64], one_of: int = SAMPLED) -> NDArray[np.int64]:
    """Those of the rows that are run all the same: by image, element and mask alone, so that units of work and workers
    change nothing."""
    ports = injections.ports
    key = injections.image[rows].astype(np.uint64)
    for column in (ports.site, ports.index, ports.xor_mask, ports.or_mask, ports.and_mask):
        for point in range(ports.site.shape[1]):
            key = mixed(key * np.uint64(0x9E3779B97F4A7C15) + column[rows, point].astype(np.uint64))
    return rows[key % np.uint64(one_of) == 0]


def check_dead(
    injections: Injections, rows: NDArray[np.int64], whole: Evaluator, table: SiteTable, one_of: int = SAMPLED
) -> int:
    """Run the sample of these faults; returns how many. Raises Disproved, naming the first whose output is not golden."""
    some = chosen(injections, rows, one_of)
    if not len(some):
        return 0
    for evaluated in whole.evaluate(injections.take(some)):
        own = some[evaluated.rows]
        wrong = np.flatnonzero(~same_words(evaluated.outputs, whole.golden[injections.image[own]]))
        if len(wrong):
            row = own[wrong[0]]
            point = int(np.argmax(injections.ports.site[row] != NO_SITE))
            name = list(table.ports)[injections.ports.site[row, point]]
            raise Disproved(
                f"a fault in {name}[{injections.ports.index[row, point]}] of named image {injections.image[row]} was proven not"
                ' to reach the output, and changed it: rerun with evaluation = "whole" in [engine], and report this model'
            )
    return len(some)
