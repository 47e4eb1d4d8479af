"""Whole plans in memory, for tests that look at every fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from testbed.campaign.plan.table import planned
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.site import SiteTable


def plan_table(spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]) -> pa.Table:
    """The faults of `planned` in one table."""
    parts = [part.faults for part in planned(spec, tables, tier_images)]
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()
