"""What the gates of a campaign run before its first fault: in a large model that is most of a short campaign."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.campaign.evaluate.repay import sample_of, too_few
from testbed.campaign.proofs import WHOLE
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.site import Site, SiteTable, Where

_BOTH_WAYS = 2


def gate_rows(
    spec: CampaignSpec, table: SiteTable, where: Where, sites: Sequence[Site], faults: int, images: int
) -> int:
    """Inferences of the gates of one place, at least: rows that change nothing, and the sample of a faster evaluation.

    sites: that faults are drawn at; faults: how many; images: that each fault in a weight is run on.
    """
    each = images if where == "weight" else 1
    rows = len(sites) * each if where == "weight" else spec.gates.zero_fault_rows
    if table.target != "model" or spec.engine.evaluation == WHOLE or too_few(faults, table, where, sites):
        return rows
    return rows + _BOTH_WAYS * sample_of(table, where, sites) * each
