"""A campaign's rates as contributions to a failure rate, with the exposure that its spec gives each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.exposure import contribution, exposed_weights, exposures
from testbed.campaign.rates import FaultModel, ModelRates, fault_models
from testbed.campaign.spec import CampaignSpec
from testbed.campaign.tally import MEASURES, Tally
from testbed.core.site import SiteTable


def site_exposures(spec: CampaignSpec, tables: Mapping[str, SiteTable]) -> dict[str, float]:
    """Exposure of each site that the spec strikes and gives one; empty for a spec without. Raises UsageError for a
    pattern that matches none of them."""
    if spec.exposure is None:
        return {}
    struck = {
        site.name: site
        for section in spec.faults
        for site in tables[section.target].select(section.where, section.sites)
    }
    return exposures(struck.values(), spec.exposure.sites, spec.exposure.per_bit)


def contributions(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tally: Tally, population: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Per fault model: the failure rate of all exposed sites together, and of each; None for a spec without exposure.

    JSON-ready, in the spec's unit. Fault models are alternatives, not parts: their totals do not add up. Those at several
    sites have no site of their own, and no contribution.
    """
    exposure = {site: weight for site, weight in site_exposures(spec, tables).items() if weight > 0}
    if spec.exposure is None:
        return None
    models = []
    for rates in fault_models(tally, population, spec.confidence):
        measures = [measure for measure in MEASURES if measure != "sdc1" or rates.model.target == "model"]
        by_site = {str(site): group.rates for site, group in rates.by("site") if site in exposure}
        if not by_site:
            continue
        total = sum(exposure[site] for site in by_site)
        whole = _exposed(rates.model, tally, population, exposure, spec.confidence).over_all().rates
        models.append(
            {
                **rates.model.told(),
                **{measure: asdict(contribution(total, whole[measure])) for measure in measures},
                "sites": [
                    {
                        "site": site,
                        **{measure: asdict(contribution(exposure[site], found[measure])) for measure in measures},
                    }
                    for site, found in by_site.items()
                ],
            }
        )
    return {
        "unit": spec.exposure.unit,
        "per_bit": spec.exposure.per_bit,
        "weights": dict(spec.exposure.sites),
        "models": models,
    }


def _exposed(
    model: FaultModel, tally: Tally, population: NDArray[np.int64], exposure: Mapping[str, float], confidence: float
) -> ModelRates:
    """The model's rows at exposed sites, as a sample in which sites weigh by their exposure."""
    profiles = tally.profiles
    mine = np.array(
        [FaultModel(p.target, p.where, p.op, p.pattern, p.scope) == model and p.site in exposure for p in profiles]
    )
    faults = tally.faults[MEASURES[0]].table()
    own = mine[faults["profile"]]
    strata, first = np.unique(faults["stratum"][own], return_index=True)
    sites = [profiles[profile].site for profile in faults["profile"][own][first]]
    weights = np.zeros(len(population))
    weights[strata] = exposed_weights(population[strata], sites, exposure)
    return ModelRates(model, tally, profiles, mine, weights, confidence)
