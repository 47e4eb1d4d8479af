"""A campaign's rates as contributions to a failure rate, with the exposure that its spec gives each site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.exposure import Contribution, contribution, exposures, summed, with_unsampled
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.exposed import (
    ContributionRecord,
    ExposureRecord,
    ModelContribution,
    SiteContribution,
    TotalContribution,
)
from testbed.campaign.summary.rates import fault_models
from testbed.campaign.summary.tally import Tally
from testbed.core.fault import FaultModel, Scope
from testbed.core.outcome import MEASURES
from testbed.core.site import SiteTable, Where

_USUAL_SCOPE: dict[Where, Scope] = {"activation": "inference", "weight": "persistent"}


def site_exposures(spec: CampaignSpec, tables: Mapping[str, SiteTable]) -> dict[str, float]:
    """Exposure of each site that the spec strikes and gives one; empty for a spec without. Raises UsageError for a
    pattern that matches none of them."""
    if spec.exposure is None:
        return {}
    faulty = {
        site.name: site
        for section in spec.faults
        for site in tables[section.target].select(section.where, section.sites)
    }
    return exposures(faulty.values(), spec.exposure.sites, spec.exposure.per_bit)


def contributions(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tally: Tally, population: NDArray[np.int64]
) -> ExposureRecord | None:
    """Per fault model: the failure rate of all exposed sites together, and of each; None for a spec without exposure.

    In the spec's unit. ``totals``: activations and weights together, of one operation and pattern. Fault
    models are alternatives, not parts: their totals do not add up. Those at several sites have no site of their own, and
    no contribution. ``not_sampled``: exposed sites of which no fault was drawn; they are in the upper limit with all of
    their exposure, and in the value with none.
    """
    exposure = {site: weight for site, weight in site_exposures(spec, tables).items() if weight > 0}
    if spec.exposure is None:
        return None
    faulty = _faulty_sites(spec, tables)
    models: list[ModelContribution] = []
    wholes: dict[FaultModel, dict[str, Contribution]] = {}
    for rates in fault_models(tally, population, spec.confidence):
        measures = [measure for measure in MEASURES if measure != "sdc1" or rates.model.target == "model"]
        by_site = {str(site): group.rates for site, group in rates.by("site") if site in exposure}
        if not by_site:
            continue
        sampled = sum(exposure[site] for site in by_site)
        missing = [site for site in faulty.get(rates.model, ()) if site in exposure and site not in by_site]
        unsampled = sum(exposure[site] for site in missing)
        rate = rates.over_sites(exposure)
        whole = {measure: with_unsampled(contribution(sampled, rate[measure]), unsampled) for measure in measures}
        wholes[rates.model] = whole
        sites = [
            SiteContribution(
                site=site,
                **_records({measure: contribution(exposure[site], estimates[measure]) for measure in measures}),
            )
            for site, estimates in by_site.items()
        ]
        models.append(
            ModelContribution(
                target=rates.model.target,
                where=rates.model.where,
                op=rates.model.label,
                pattern=rates.model.pattern,
                scope=rates.model.scope,
                **_records(whole),
                not_sampled=missing,
                sites=sites,
            )
        )
    return ExposureRecord(
        unit=spec.exposure.unit,
        per_bit=spec.exposure.per_bit,
        weights=dict(spec.exposure.sites),
        models=models,
        totals=list(_totals(wholes)),
    )


def _records(contributions: Mapping[str, Contribution]) -> dict[str, Any]:
    """Keyword arguments of a record: one per measure that has a meaning."""
    return {measure: ContributionRecord.of(contribution) for measure, contribution in contributions.items()}


def _totals(wholes: Mapping[FaultModel, Mapping[str, Contribution]]) -> Iterator[TotalContribution]:
    """Activations and weights together, where both were struck by the same operation and pattern."""
    for model, activations in wholes.items():
        if model.where != "activation" or model.scope != _USUAL_SCOPE["activation"]:
            continue
        other = model._replace(where="weight", scope=_USUAL_SCOPE["weight"])
        if other in wholes:
            together = {name: summed((estimate, wholes[other][name])) for name, estimate in activations.items()}
            yield TotalContribution(target=model.target, op=model.label, pattern=model.pattern, **_records(together))


def _faulty_sites(spec: CampaignSpec, tables: Mapping[str, SiteTable]) -> dict[FaultModel, Sequence[str]]:
    """The sites of each fault model of single tensors, drawn from or not."""
    by_model: dict[FaultModel, dict[str, None]] = {}
    for section in spec.faults:
        if section.pattern == "sites":
            continue
        names = [site.name for site in tables[section.target].select(section.where, section.sites)]
        scope: Scope = "persistent" if section.persistent else "inference"
        for op in section.ops:
            model = FaultModel(section.target, section.where, op, section.pattern_name(op), scope)
            by_model.setdefault(model, {}).update(dict.fromkeys(names))
    return {model: list(names) for model, names in by_model.items()}
