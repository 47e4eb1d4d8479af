"""The form of a paired comparison: what `testbed protect compare --json` prints, and tables, figures and the API read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.compare.record import ComparedCampaign, ComparedRate, ComparePart
from testbed.core.site import Target, Where

By = Literal["all", "kind", "bit_class", "tier"]
Affected = Literal["sdc1", "outside", "nonfinite"]
EventName = Literal["sdc1", "outside"]
SideName = Literal["plain", "protected"]


class UnmatchedRows(ComparePart):
    """Rows of one side that the other has no fault and image for."""

    side: SideName = Field(description="the campaign that has them: `plain` or `protected`")
    kind: str = Field(description="kind of the site")
    rows: int = Field(description="rows without a partner")
    faults: int = Field(description="faults of these rows")


class ElementPairing(ComparePart):
    """Which rows pair: those of the same elements of the same sites, the same masks and the same image, however drawn."""

    faults: int = Field(description="faults of the plain campaign that pair")
    rows: int = Field(description="rows that pair")
    unmatched: list[UnmatchedRows] = Field(description="rows that do not pair, by side and kind of site")


class ShareRemoved(ComparePart):
    """`1 - after / before` with its interval: 1 where nothing is left, below 0 where protection adds events."""

    share: float | None = Field(description="the share that was removed; null where there was no event before")
    low: float | None = Field(description="lower end of its interval; null: without a bound")
    high: float | None = Field(description="upper end; null: without a bound")


class EventChange(ComparePart):
    """One event before and after protection, of one group of faults."""

    before: ComparedRate = Field(description="its rate in the plain campaign")
    after: ComparedRate = Field(description="its rate in the protected one, where no alarm was raised: what is left")
    after_without_alarms: ComparedRate = Field(
        description="the same if alarms are not counted as handled: what the outputs show, whatever the checks say"
    )
    removed: ShareRemoved = Field(description="the share of it that was removed, corrected or noticed")
    corrected: ShareRemoved = Field(description="the share that was removed if alarms are not counted as handled")
    new_rows: int = Field(description="rows with the event under protection alone")
    new: ComparedRate = Field(description="their rate")


class ProtectedGroup(ComparePart):
    """What protection changed for the faults of one model and one group."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    by: By = Field(description="what the group is told by: `all`, `kind` of site, `bit_class` or `tier`")
    value: str | None = Field(description="its value; null for all faults of the model")
    faults: int = Field(description="faults that pair")
    rows: int = Field(description="rows that pair")
    sdc1: EventChange | None = Field(description="of a changed top-1; null without classes")
    outside: EventChange = Field(description="of outputs outside the tolerance")


class BecameOutcome(ComparePart):
    """The outcome that some rows have under protection."""

    outcome: str = Field(description="the outcome in the protected campaign")
    rows: int = Field(description="rows that have it")
    rate: ComparedRate = Field(description="their weighted share")


class BoundedDetection(ComparePart):
    """A share of rows in which the checks raised an alarm."""

    rows: int = Field(description="rows with an alarm")
    rate: float = Field(description="their weighted share")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    low_95: float = Field(description="one-sided lower bound that holds in 95 % of samples")
    low_99: float = Field(description="one-sided lower bound that holds in 99 % of samples")


class AffectedRows(ComparePart):
    """Rows that the plain engine would have had an event in, and what they are under protection."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    by: By = Field(description="what the group is told by: `all`, `kind` of site, `bit_class` or `tier`")
    value: str | None = Field(description="its value; null for all faults of the model")
    event: Affected = Field(
        description="in the plain campaign: `sdc1` another top-1, `outside` outside the tolerance, `nonfinite` a NaN or"
        " infinity in the output"
    )
    faults: int = Field(description="faults with such rows")
    rows: int = Field(description="such rows")
    detected: BoundedDetection = Field(description="the share with an alarm: detection coverage")
    became: list[BecameOutcome] = Field(description="the outcomes that these rows have under protection")


class NewSdc(ComparePart):
    """A row whose top-1 changed under protection alone."""

    fault_id: int = Field(description="number of the fault in the plain campaign")
    fault_id_b: int = Field(description="its number in the protected one")
    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    site: str = Field(description="the tensor")
    index: int = Field(description="flat index of the element")
    bit: int | None = Field(description="the bit; null for a whole word")
    image_id: str = Field(description="the image")
    outcome: str = Field(description="outcome in the plain campaign")
    max_abs_diff: float | None = Field(description="largest deviation of the plain output; null: not finite")
    max_abs_diff_b: float | None = Field(description="largest deviation of the protected output; null: not finite")


class NeedlessAlarms(ComparePart):
    """Alarms under a fault although the output was inside the tolerance."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    alarms: int = Field(description="rows with an alarm")
    needless: int = Field(description="of these, rows whose output was inside the tolerance")
    of_alarms: ComparedRate | None = Field(description="their share of the rows with an alarm; null without any")
    of_rows: ComparedRate = Field(description="their share of all rows")


class TierFalseAlarms(ComparePart):
    """Alarms without any fault on the images of one tier."""

    low: float | None = Field(
        description="lower edge of their margins, not in the tier unless it is 0; null: images that the plain engine gets"
        " wrong, which are in no tier"
    )
    high: float | None = Field(description="upper edge, in the tier; null likewise")
    images: int = Field(description="images of the tier that were run without a fault")
    alarms: int = Field(description="of these, images with an alarm")
    bound_95: float = Field(
        description="one-sided upper bound of their share that holds in 95 % of samples; 1 without images"
    )
    bound_99: float = Field(description="one-sided upper bound of their share that holds in 99 % of samples")


class FalseAlarms(ComparePart):
    """Alarms without any fault."""

    source: Literal["campaign", "protection"] = Field(
        description="on which images: `campaign` those of the protected campaign, `protection` the unseen test images that the"
        " model was held against when it was protected"
    )
    engine: str = Field(description="engine that they were run in")
    images: int = Field(description="images that were run without a fault")
    alarms: int = Field(description="of these, images with an alarm")
    bound_95: float = Field(description="one-sided upper bound of their share that holds in 95 % of samples")
    bound_99: float = Field(description="one-sided upper bound of their share that holds in 99 % of samples")
    seconds_bound_95: float | None = Field(
        default=None,
        description="what second runs of images without a fault come to at most, at `bound_95`: engine seconds per image; null"
        " where nothing is run again",
    )
    by_tier: list[TierFalseAlarms] = Field(
        description="the same by tier: the campaign's tiers, or the usual four by the plain engine's margins; empty where the"
        " model's record does not tell"
    )


class RecoveredRows(ComparePart):
    """A share of the rows that were run again after an alarm, whose second output was within the tolerance without another."""

    rows: int = Field(description="rows that recovered")
    rate: float = Field(description="their weighted share of the rows with an alarm")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    low_95: float = Field(description="one-sided lower bound that holds in 95 % of samples")
    low_99: float = Field(description="one-sided lower bound that holds in 99 % of samples")


class ExtraSeconds(ComparePart):
    """Engine seconds of second runs per faulty inference: the share that is run twice times what a second run takes. The
    interval is that of the share."""

    mean: float = Field(description="what is expected")
    low: float = Field(description="at the lower end of the share's interval")
    high: float = Field(description="at its upper end")


class FollowedAlarms(ComparePart):
    """What followed alarms under the faults of one model and one group: second runs, which were really run."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    scope: str = Field(description="how long a fault lasts: one `inference`, or `persistent`")
    by: By = Field(description="what the group is told by: `all`, `kind` of site, `bit_class` or `tier`")
    value: str | None = Field(description="its value; null for all faults of the model")
    rows: int = Field(description="rows that pair")
    alarms: int = Field(description="of these, rows with an alarm: each was run twice")
    run_twice: ComparedRate = Field(description="their share of all rows")
    run_twice_rightly: ComparedRate = Field(
        description="share of all rows run twice whose first output was outside the tolerance"
    )
    run_twice_needlessly: ComparedRate = Field(
        description="share of all rows run twice whose first output was inside it"
    )
    recovered: RecoveredRows | None = Field(description="the share of alarms that recovered; null without any alarm")
    seconds: ExtraSeconds = Field(description="engine seconds of second runs per faulty inference")


class CheckerFaults(ComparePart):
    """Faults in tensors that protection itself added, of the protected campaign alone."""

    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    kind: str = Field(description="kind of the site: `protect.` and the pass, or `all` of them")
    faults: int = Field(description="number of faults")
    rows: int = Field(description="number of rows")
    outcomes: list[BecameOutcome] = Field(description="their outcomes")
    needless: ComparedRate = Field(description="share with an alarm although the output was inside the tolerance")


class ProtectionComparison(ComparePart):
    """What protection changed, fault by fault."""

    plain: ComparedCampaign = Field(description="the campaign of the plain model")
    protected: ComparedCampaign = Field(description="the campaign of the protected model")
    passes: list[str] = Field(description="the passes that the model was protected with")
    confidence: float = Field(description="of every two-sided interval: that of the plain campaign")
    pairing: ElementPairing = Field(description="which rows pair")
    groups: list[ProtectedGroup] = Field(description="what protection changed, by fault model and group")
    affected: list[AffectedRows] = Field(description="what became of rows that would have had an event")
    new_sdc: list[NewSdc] = Field(description="rows whose top-1 changed under protection alone")
    needless: list[NeedlessAlarms] = Field(description="alarms although the output was inside the tolerance")
    false_alarms: list[FalseAlarms] = Field(description="alarms without a fault; none where nothing raises alarms")
    on_detected: str = Field(description="what followed an alarm: `none`, `rerun` or `reload`")
    seconds_per_alarm: float | None = Field(
        description="engine seconds of one second run, as the protected campaign's gates timed it on the plain engine, with the"
        " engine built anew where weights are reloaded; null where nothing is run again"
    )
    second_runs: list[FollowedAlarms] = Field(description="what followed alarms; none where nothing is run again")
    checkers: list[CheckerFaults] = Field(description="what faults in the checks themselves do")
    notes: list[str] = Field(description="what else differs between the two campaigns")
    method: str = Field(description="how rates and intervals are made")
