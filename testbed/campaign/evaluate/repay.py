"""Whether a gate's runs are repaid: in large models an inference takes seconds, and a gate hundreds of them."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.campaign.evaluate.suffix.gate import repeats
from testbed.campaign.evaluate.suffix.sample import PER_KIND, sample_size
from testbed.campaign.evaluate.weights.gate import trial_count
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.sections import sampled_strata
from testbed.core.site import Site, SiteTable, Where

LARGE_MODEL = 50_000_000
"""Parameters from which on gates are weighed against the campaign; in smaller models they take a minute."""


def unrepaid(workplace: Workplace, target: str, where: Where, sites: Sequence[Site]) -> str:
    """Why no faster evaluation is looked for; empty where one is."""
    spec, table = workplace.drawn_spec, workplace.table(target)
    if spec.stop is not None or not is_large(table):
        return ""
    tables = {target: table}
    sections = [section for section in spec.faults if (section.target, section.where) == (target, where)]
    tier_images = workplace.images.per_tier(len(spec.tiers.edges))
    faults = sum(sampled.drawn for sampled in sampled_strata(sections, tables, tier_images))
    return too_few(faults, table, where, sites)


def too_few(faults: int, table: SiteTable, where: Where, sites: Sequence[Site]) -> str:
    """Why a campaign of so many faults does not repay a gate; empty where it does, or the model is not large.

    A faster evaluation saves about half of each fault's time, and its gate runs every sampled fault both ways: with fewer than
    twice as many faults the campaign ends sooner without. Rows have the same bits either way.
    """
    sampled = sample_of(table, where, sites)
    if not is_large(table) or faults >= 2 * sampled:
        return ""
    return f"too few faults ({faults:,}) for a check of {sampled:,} to be worth it"


def sample_of(table: SiteTable, where: Where, sites: Sequence[Site]) -> int:
    """Faults that the gate of an evaluation runs both ways."""
    return sample_size(sites, PER_KIND * repeats(table)) if where == "activation" else trial_count(sites)


def is_large(table: SiteTable) -> bool:
    """Whether a target is a whole model whose gates take many minutes, by the numbers in all weights that can be struck."""
    parameters = sum(site.elements for site in table if site.where == "weight")
    return table.target == "model" and parameters >= LARGE_MODEL
