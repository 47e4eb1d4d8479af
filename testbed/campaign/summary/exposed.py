"""The summary's contributions to a failure rate, as `testbed.campaign.summary.exposure` makes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from testbed.analysis.exposure import Contribution
from testbed.campaign.summary.part import SummaryPart
from testbed.core.outcome import MEASURES
from testbed.core.site import Where

_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ContributionRecord(SummaryPart):
    """A contribution with its interval, in the exposure's unit. ``high_95``, ``high_99``: one-sided upper bounds; None in
    summaries of earlier versions."""

    exposure: _NonNegativeFloat
    value: float
    low: float
    high: float
    high_95: float | None = None
    high_99: float | None = None

    @classmethod
    def of(cls, contribution: Contribution) -> ContributionRecord:
        return cls(**asdict(contribution))


class _Measured(SummaryPart):
    """Contributions by measure: fields of the measures' names, which are absent where a measure has no meaning."""

    def contribution(self, measure: str) -> ContributionRecord | None:
        record: ContributionRecord | None = getattr(self, measure)
        return record

    @property
    def measures(self) -> list[str]:
        """The measures that have a meaning, in their usual order."""
        return [measure for measure in MEASURES if getattr(self, measure) is not None]


class SiteContribution(_Measured):
    """What one site contributes."""

    site: str
    sdc1: ContributionRecord | None = None
    outside: ContributionRecord
    nonfinite: ContributionRecord


class ModelContribution(_Measured):
    """What all exposed sites contribute under one fault model. ``op``: its label. ``not_sampled``: exposed sites of which
    no fault was drawn."""

    target: str
    where: Where
    op: str
    pattern: str = "single"
    scope: str | None = None
    sdc1: ContributionRecord | None = None
    outside: ContributionRecord
    nonfinite: ContributionRecord
    not_sampled: list[str] = Field(default_factory=list)
    sites: list[SiteContribution]

    @property
    def main_measure(self) -> str:
        """SDC-1, or outside the tolerance where there are no classes."""
        return self.measures[0]


class TotalContribution(_Measured):
    """Activations and weights together, of one operation and pattern."""

    target: str
    op: str
    pattern: str = "single"
    sdc1: ContributionRecord | None = None
    outside: ContributionRecord
    nonfinite: ContributionRecord


class ExposureRecord(SummaryPart):
    """Contributions to a failure rate. ``unit``, ``per_bit``, ``weights``: of the spec. ``models`` are alternatives, not
    parts: they do not add up."""

    unit: str
    per_bit: bool
    weights: dict[str, float]
    models: list[ModelContribution]
    totals: list[TotalContribution] = Field(default_factory=list)

    @property
    def not_sampled(self) -> list[str]:
        """Exposed sites of which some fault model drew no fault, each once."""
        return list(dict.fromkeys(site for model in self.models for site in model.not_sampled))
