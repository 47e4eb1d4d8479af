"""The form of a trade-off of protection: what `testbed protect tradeoff --json` prints, and all that shows it reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.bench.timing import Ratio
from testbed.compare.record import ComparedRate, ComparePart
from testbed.core.site import Target, Where
from testbed.protect.paired.record import BoundedDetection, EventName, FalseAlarms, ShareRemoved

CurveCost = Literal["macs", "latency"]
Standing = Literal["front", "undecided", "dominated"]


class MeasuredLatency(ComparePart):
    """Latency of a deployed file at one batch size, in turns with the plain model's."""

    batch: int = Field(description="images at a time")
    runs: int = Field(description="rounds; in each, every engine ran once")
    p50_ms: float = Field(description="median latency, in milliseconds: this machine's, at this time")
    ratio: float = Field(description="median latency over the plain model's")
    low: float | None = Field(description="lower end of its interval over the rounds; null with too few of them")
    high: float | None = Field(description="upper end")
    latency_ms: list[float] = Field(description="every run, in milliseconds; the n-th of two models is of one round")

    @property
    def as_ratio(self) -> Ratio:
        """The ratio with its interval."""
        return Ratio(self.ratio, self.low, self.high)


class CostedModel(ComparePart):
    """A model as deployed, and what it costs. The plain one has a ratio of 1 and adds nothing."""

    name: str = Field(description="name of its folder, with those above it where two are alike")
    folder: str = Field(description="its run folder; that of the campaign where the campaign trained the model itself")
    deployment_id: str = Field(description="id of its deployed file, in which latency was measured and faults were run")
    passes: list[str] = Field(description="the passes that it was protected with; none of the plain model")
    campaigns: list[str] = Field(description="folders of its campaigns")
    engine_hash: str = Field(description="hash of the engine of that file as it is deployed, without any fault port")
    twin_hashes: list[str] = Field(description="hashes of the instrumented engines in which faults were run")
    latency: list[MeasuredLatency] = Field(description="a record for each batch size, the first being what counts")
    macs: int = Field(description="multiply-accumulates of one image in the file, checks and copies included")
    macs_added_percent: float = Field(description="what it has more than the plain file, in per cent of that")
    operations_added_percent: float = Field(
        description="the same with every element that is clipped, compared or summed counting as one, as in"
        " `testbed protect --cost macs`"
    )
    false_alarms: list[FalseAlarms] = Field(description="alarms without a fault; none where nothing raises alarms")


class TradeoffPoint(ComparePart):
    """What one model leaves of one event under one fault model, and where it stands among the others."""

    model: str = Field(description="name of the model")
    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    event: EventName = Field(description="`sdc1` another top-1, or `outside` the tolerance; in both without an alarm")
    campaign: str = Field(description="the campaign that it is from")
    faults: int = Field(description="faults that pair with the plain campaign's; of the plain model all")
    rows: int = Field(description="rows of these faults")
    before: ComparedRate = Field(description="rate of the event in the plain model, of the same faults and images")
    left: ComparedRate = Field(description="rate of the event in this model")
    removed: ShareRemoved | None = Field(description="`1 - left / before`, paired; null of the plain model")
    detected: BoundedDetection | None = Field(
        description="of the rows with the event in the plain model, the share with an alarm; null without any, and of the"
        " plain model"
    )
    standing: Standing = Field(
        description="against latency at the first batch. `front`: no other model costs less and leaves less, as estimated;"
        " `dominated`: another is shown to do both, by intervals of paired rows and rounds; `undecided`: another does as"
        " estimated, but is not shown to"
    )
    dominated_by: list[str] = Field(description="models that cost no more and leave no more, as estimated")


class SharedRows(ComparePart):
    """A share of an event in the plain model, and the rows that it is of."""

    share: float = Field(description="weighted share of the event's rows in the plain campaign")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    rows: int = Field(description="number of rows")


class RemovalAccount(ComparePart):
    """What was expected to be removed, if a covered site loses all of an event, and what was: the same rows, counted twice.

    `removed = expected - left_at_covered + mended_elsewhere + noticed_elsewhere - added`.
    """

    model: str = Field(description="name of the model")
    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    event: EventName = Field(description="`sdc1` another top-1, or `outside` the tolerance; in both without an alarm")
    covered_sites: int = Field(description="sites with faults that the model's places cover")
    sites: int = Field(description="all sites with faults")
    expected: SharedRows = Field(description="the share of the plain model's event that was at covered sites")
    removed: ShareRemoved = Field(description="the share of it that was removed")
    left_at_covered: SharedRows = Field(description="what is left of the event at sites that places cover")
    mended_elsewhere: SharedRows = Field(
        description="removed without an alarm at sites that no place covers: mended by places downstream of them"
    )
    noticed_elsewhere: SharedRows = Field(
        description="removed by an alarm at sites that no place covers: noticed by places downstream of them"
    )
    added: float = Field(description="events under protection alone, as a share of those in the plain model")
    added_rows: int = Field(description="their rows")
    why: str = Field(description="the difference in one sentence")


class CurveStep(ComparePart):
    """The places taken so far along a curve, and what they would leave."""

    places: int = Field(description="places taken")
    last: str | None = Field(description="the pass and place that was taken last; null where a choice is made anew")
    cost_percent: float = Field(description="what they cost, in per cent of the plain file, their costs added up")
    share: float = Field(description="the share of the plain model's event that was at the sites they cover")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    left: float = Field(description="rate of the event if a covered site loses all of it: `before * (1 - share)`")


class HypotheticalCurve(ComparePart):
    """What would be left if a protected site lost all of an event, along the order in which places would be chosen."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    event: EventName = Field(description="`sdc1` another top-1, or `outside` the tolerance")
    passes: list[str] = Field(description="the passes whose places can be taken")
    cost: CurveCost = Field(
        description="what costs are of: `macs`, with other operations, or `latency` at the first batch"
    )
    before: ComparedRate = Field(description="rate of the event in the plain campaign")
    greedy: list[CurveStep] = Field(
        description="place after place, the highest gain per cost first; begins without any"
    )
    exact: list[CurveStep] = Field(
        description="the best choice of places for costs along the way, by integer programming"
    )


class ProtectionTradeoff(ComparePart):
    """What protected models cost and what they leave, against the plain model."""

    engine: str = Field(description="of the campaigns, and of latency")
    precision: str = Field(description="of the campaigns, and of latency")
    threads: int = Field(description="threads of the engines whose latency was measured")
    confidence: float = Field(description="of every two-sided interval: that of the plain campaign")
    batch: int = Field(description="images at a time that standings and the recommendation rest on")
    budget_percent: float = Field(description="what a recommended model may add to the plain model's latency")
    plain: CostedModel = Field(description="the plain model")
    models: list[CostedModel] = Field(description="the protected models")
    points: list[TradeoffPoint] = Field(
        description="what each model leaves, by fault model and event; the plain one first"
    )
    removals: list[RemovalAccount] = Field(
        description="expected and really removed shares, by model, fault model and event"
    )
    curves: list[HypotheticalCurve] = Field(description="hypothetical protection, by passes, fault model and event")
    recommended: str | None = Field(description="name of the recommended model; null where none keeps to the budget")
    why: str = Field(description="why, with its numbers")
    notes: list[str] = Field(description="what was left out, and what else differs between campaigns")
    method: str = Field(description="how numbers and intervals are made")
