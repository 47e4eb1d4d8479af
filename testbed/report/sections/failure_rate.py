"""What the faults come to per unit of time, where the spec says how much each site is exposed: the summary's
contributions as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from testbed.campaign.summary.exposed import (
    ContributionRecord,
    ExposureRecord,
    ModelContribution,
    SiteContribution,
    TotalContribution,
)
from testbed.core.outcome import MEASURES
from testbed.report.formatting import MEASURE_NAMES, amount, count, model_name
from testbed.report.read.evidence import Evidence
from testbed.report.sections.swept import Table

_SITES = 12
_PLACES = {"activation": "activations", "weight": "weights"}


@dataclass(frozen=True)
class FailureRate:
    """Contributions to a failure rate. unit: as the spec calls it. tables: totals of each fault model, then the sites
    that contribute most."""

    unit: str
    per_bit: bool
    tables: tuple[Table, ...]
    not_sampled: tuple[str, ...]


def failure_rate(evidence: Evidence) -> FailureRate | None:
    """None for a campaign without exposures."""
    exposure = evidence.summary.exposure
    if exposure is None or not exposure.models:
        return None
    totals = list(totals_of(exposure))
    measures = [measure for measure in MEASURES if any(record.contribution(measure) for _, record in totals)]
    tables = [_contribution_table("failure-rate-totals", "All exposed sites", totals, measures)]
    for model in exposure.models:
        most = sorted(model.sites, key=lambda site: -_value(site, model.main_measure))[:_SITES]
        if len(model.sites) > 1:
            shown = [(site.site, site) for site in most]
            title = f"{_name(model)}: {'the sites that contribute most' if len(most) < len(model.sites) else 'by site'}"
            of = [measure for measure in measures if measure in model.measures]
            tables.append(_contribution_table(f"failure-rate-{len(tables)}", title, shown, of))
    return FailureRate(exposure.unit, exposure.per_bit, tuple(tables), tuple(exposure.not_sampled))


def totals_of(exposure: ExposureRecord) -> Iterator[tuple[str, ModelContribution | TotalContribution]]:
    """(name, contribution per measure) of each fault model's exposed sites, and of activations and weights together."""
    for model in exposure.models:
        yield _name(model), model
    for total in exposure.totals:
        yield f"{total.target}, activations and weights, {model_name(total.op)}", total


def contribution_text(contribution: ContributionRecord | None) -> str:
    """ "542 [498, 590]"; nothing where there is no such measure."""
    if contribution is None:
        return ""
    return f"{amount(contribution.value)} [{amount(contribution.low)}, {amount(contribution.high)}]"


def _name(model: ModelContribution) -> str:
    return f"{model.target}, {_PLACES[model.where]}, {model_name(model.op)}"


def _value(site: SiteContribution, measure: str) -> float:
    contribution = site.contribution(measure)
    return 0.0 if contribution is None else contribution.value


def _contribution_table(
    id_: str,
    title: str,
    named: Sequence[tuple[str, SiteContribution | ModelContribution | TotalContribution]],
    measures: Sequence[str],
) -> Table:
    rows = tuple(
        (
            name,
            amount(record.outside.exposure),
            *(contribution_text(record.contribution(measure)) for measure in measures),
        )
        for name, record in named
    )
    return Table(id_, title, ("", "exposure", *(MEASURE_NAMES[measure] for measure in measures)), rows)


def not_sampled_text(sites: Sequence[str]) -> str:
    """What is said of exposed sites of which no fault was drawn."""
    named = ", ".join(sites[:3]) + (f" and {count(len(sites) - 3)} more" if len(sites) > 3 else "")
    return f"No fault of {named} was drawn: the upper limits hold all of their exposure, the values none of it."
