"""What the summary says of a protected engine: its passes, false alarms, what its checks saw, and what followed alarms."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, JsonValue

from testbed.analysis.domains import Estimate
from testbed.analysis.stats import rounded_share
from testbed.campaign.gate_facts import AlarmFacts
from testbed.campaign.summary.part import SummaryPart
from testbed.campaign.summary.rates import ModelRates
from testbed.core.outcome import Outcome
from testbed.core.site import Where

_NonNegative = Annotated[int, Field(ge=0)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_ONE_SIDED = {"low_95": 0.90, "low_99": 0.98}  # two-sided levels, whose lower ends alone hold 95 and 99 %


class CheckedShare(SummaryPart):
    """A share of rows with its interval, and its one-sided lower bounds."""

    rows: _NonNegative
    faults: _NonNegative
    rate: _Share
    low: _Share
    high: _Share
    low_95: _Share
    low_99: _Share


class CheckedModel(SummaryPart):
    """What the checks saw of one fault model. ``op``: its label. ``detected``: rows with an alarm.

    Shares with an alarm: ``sdc1`` of outputs of another top-1, ``outside`` of those outside the tolerance, ``inside`` of
    those inside it. ``recovered``: of rows that were run again. None where there are no such rows.
    ``second_run_seconds``: expected of second runs per faulty inference, None where nothing is run again.
    """

    target: str
    where: Where
    op: str
    pattern: str = "single"
    scope: str | None = None
    detected: _NonNegative
    sdc1: CheckedShare | None = None
    outside: CheckedShare | None = None
    inside: CheckedShare | None = None
    recovered: CheckedShare | None = None
    second_run_seconds: _NonNegativeFloat | None = None


class ProtectionRecord(SummaryPart):
    """Protection of the deployed file. ``passes``: as its metadata has them. ``false_alarms``: without a fault; None, as the
    rest, of an engine whose passes detect nothing."""

    passes: JsonValue
    on_detected: str = "none"
    false_alarms: AlarmFacts | None = None
    models: list[CheckedModel] = Field(default_factory=list)


def checked_model(rates: ModelRates, alarms: AlarmFacts) -> CheckedModel:
    """What the checks saw of one fault model, and what followed."""
    model = rates.model
    shares: dict[str, Any] = {question: _share(rates, question) for question in rates.checked}
    if alarms.second_run_seconds is not None:
        shares["second_run_seconds"] = rates.over_all().rates["detected"].rate * alarms.second_run_seconds
    return CheckedModel(
        target=model.target,
        where=model.where,
        op=model.label,
        pattern=model.pattern,
        scope=model.scope,
        detected=sum(counter[Outcome.DETECTED] for counter in rates.outcomes_by_cell().values()),
        **{name: share for name, share in shares.items() if share is not None},
    )


def _share(rates: ModelRates, question: str) -> CheckedShare | None:
    estimate = rates.of_checks(question)
    if estimate is None:
        return None
    ends: dict[str, Estimate | None] = {name: rates.of_checks(question, level) for name, level in _ONE_SIDED.items()}
    return CheckedShare(
        rows=estimate.n_rows,
        faults=estimate.n_clusters,
        rate=rounded_share(estimate.rate),
        low=rounded_share(estimate.low),
        high=rounded_share(estimate.high),
        **{name: rounded_share(end.low) for name, end in ends.items() if end is not None},
    )
