"""The first thing that a comparison says: per side, the SDC-1 rate of each fault model of the whole model.

The rate is of a bit chosen at random among all that the spec strikes; weighed by how many these are, it says
how many bits, if flipped, change the prediction. A format of fewer bits offers less to strike.
"""

from __future__ import annotations

from collections.abc import Iterator

from testbed.campaign.files import PLAN, RESULTS, Files
from testbed.campaign.plan.sections import bits_named
from testbed.campaign.summary.rates import fault_models
from testbed.campaign.summary.tally import Tally, populations
from testbed.compare.record import HeadlineRate
from testbed.compare.side import Side
from testbed.core.fault import FaultModel
from testbed.core.site import Site, SiteTable

_TARGET = "model"


def headline(side: Side) -> list[HeadlineRate]:
    """One for each fault model; none where the model as a whole was not struck."""
    return list(_lines(side)) if _TARGET in side.spec.targets else []


def _lines(side: Side) -> Iterator[HeadlineRate]:
    tally = Tally.of(side.path / RESULTS)
    _, population = populations([side.path / PLAN])
    table = SiteTable.load(side.folder / Files(_TARGET).sites)
    for rates in fault_models(tally, population, side.spec.confidence):
        model = rates.model
        if model.target != _TARGET:
            continue
        group = rates.over_all()
        rate = group.rates["sdc1"]
        sites = {profile.site for profile in rates.profiles}
        faulty = [site for site in table if site.name in sites and site.where == model.where]
        bits = sum(site.elements * _bits(side, model, site, table) for site in faulty)
        yield HeadlineRate(
            where="weight" if model.where == "weight" else "activation",
            op=model.label,
            rate=rate.rate,
            low=rate.low,
            high=rate.high,
            high_95=rate.high_95,
            high_99=rate.high_99,
            faults=rate.n_clusters,
            n=rate.n_rows,
            bits=bits,
            sdc1_bits=rate.rate * bits,
            sdc1_bits_low=rate.low * bits,
            sdc1_bits_high=rate.high * bits,
        )


def _bits(side: Side, model: FaultModel, site: Site, table: SiteTable) -> int:
    """Bits of each word that the model strikes: all, unless the spec names some."""
    if model.op == "random":
        return site.format.bits
    persistent = model.scope == "persistent"
    named = bits_named(side.spec.faults, table, site, model.op, model.pattern, persistent)
    return len(named) or site.format.bits
