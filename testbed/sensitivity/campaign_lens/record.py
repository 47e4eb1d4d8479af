"""The form of ``lens.json``: what the fault lens measured over a campaign, as tables, the page and Python read it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from testbed.campaign.files import RESULTS
from testbed.core.folder.forms import Form, read_form
from testbed.core.folder.runfolder import RunFolder

LENS = "lens.json"
STAGE = "lens"
COMMAND = "testbed fault lens"
LensDimension = Literal["all", "kind", "bit_class", "block", "outcome"]
Change = Literal["absorbed", "takes_over", "repaired"]
OutcomeEvent = Literal["sdc1", "outside"]


class LensPart(Form):
    """A part of the record. Keys that another version writes are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class LensEstimate(LensPart):
    """A share or a mean with its interval."""

    value: float = Field(description="the estimate")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    n: int = Field(description="faults that it is an estimate from")


class LensRate(LensEstimate):
    """A rate over the campaign's stored rows."""

    faults: int = Field(description="faults of these rows: clusters")


class SampledGroup(LensPart):
    """One group of outcomes that faults were drawn from."""

    outcome: str = Field(
        description="`sdc1`, `outside` (otherwise outside the tolerance, or no output), `masked`, `identical`"
    )
    faults: int = Field(description="faults of the campaign with that outcome, in the stream")
    drawn: int = Field(description="how many of them were looked at")


class AbsorbedWithin(LensPart):
    """The share of faults that are absorbed no later than so many blocks after their own."""

    depth: int = Field(description="blocks after the fault's own; 0 is its own block")
    share: LensEstimate = Field(description="of all faults of the group")


class MedianDepth(LensPart):
    """Depth by which half of the faults are absorbed; null is never, as fewer than half ever are."""

    value: int | None = Field(description="the estimate")
    low: int | None = Field(description="lower end of its interval")
    high: int | None = Field(description="upper end")
    n: int = Field(description="faults that it is an estimate from")


class LensGroup(LensPart):
    """What became of the faults of one group inside the model."""

    by: LensDimension = Field(description="what the group is told by")
    value: str | int | None = Field(description="which of them; null for all, and outside the blocks")
    n: int = Field(description="faults that were looked at")
    absorbed: LensEstimate = Field(description="share that is absorbed in the end")
    taken_over: LensEstimate = Field(description="share after which the head says another class in the end")
    repaired: LensEstimate = Field(
        description="share after which it had said another class, and says the golden one again"
    )
    within: list[AbsorbedWithin] = Field(
        description="share absorbed by depth; what is missing to 1 is censored: never absorbed"
    )
    median_depth: MedianDepth = Field(
        description="absorption depth, faults that are never absorbed counting as beyond all"
    )
    mean_depth: LensEstimate | None = Field(description="mean depth of those that are absorbed; null where none is")


class ChangeAt(LensPart):
    """How much of a change happens at one state."""

    change: Change = Field(description="`absorbed`, `takes_over` or `repaired`")
    after: str = Field(description="the state: the embedding, or the block's output")
    share: LensEstimate = Field(description="of the faults that change so at all")


class Prediction(LensPart):
    """Does the rank of the true class at the injected block, without the fault, tell which faults do harm?

    The area is the probability that a fault with the event has the higher rank (the class is identified less) than one
    without, ties counting half: 0.5 says nothing.
    """

    bit_class: str | None = Field(description="faults in bits of this class; null for all")
    event: OutcomeEvent = Field(description="`sdc1`, or `outside` the tolerance")
    n: int = Field(description="faults of this class of bits")
    events: int = Field(description="rows with the event")
    images: int = Field(description="images of these rows: what is resampled")
    auc: LensEstimate | None = Field(
        description="area under the ROC curve; null with fewer than five events or non-events"
    )
    auc_alike: LensEstimate | None = Field(
        description="the same over pairs of faults in one block and one class of bits only"
    )


class RankBand(LensPart):
    """Rates where the true class has a rank of the band at the injected block, without the fault."""

    bit_class: str | None = Field(description="faults in bits of this class; null for all")
    low: int = Field(description="lowest rank of the band, 0 for the best")
    high: int = Field(description="highest rank of it")
    sdc1: LensRate = Field(description="rate of another top-1")
    outside: LensRate = Field(description="rate of outputs outside the tolerance")


class LensModel(LensPart):
    """The lens over the faults of one fault model."""

    target: str = Field(description="of the fault model: `model`")
    where: str = Field(description="of the fault model: `activation` or `weight`")
    op: str = Field(description="of the fault model")
    pattern: str = Field(description="of the fault model: `single`, or the words that are hit together")
    scope: str = Field(description="of the fault model: `inference` or `persistent`")
    rows: int = Field(description="stored rows")
    behind: int = Field(description="rows of faults in the final norm and head, which the lens does not see")
    sample: list[SampledGroup] = Field(description="how faults were drawn, by outcome")
    drawn: int = Field(description="faults that were looked at")
    compared: int = Field(description="of them, those whose stored top-1 is known and finite")
    disagreements: int = Field(description="of these, where the eager model ends with another class than the engine")
    sdc1: LensRate = Field(description="the campaign's SDC-1 rate of the same faults")
    outside: LensRate = Field(description="the campaign's rate outside the tolerance")
    groups: list[LensGroup] = Field(description="by kind of site, class of bit and block")
    changes: list[ChangeAt] = Field(description="at which state faults are absorbed, take over and are repaired")
    predictions: list[Prediction] = Field(description="areas under the ROC curve")
    bands: list[RankBand] = Field(description="rates by rank of the true class")

    def by(self, dimension: LensDimension) -> list[LensGroup]:
        """The groups of one dimension."""
        return [group for group in self.groups if group.by == dimension]

    @property
    def name(self) -> str:
        """The fault model in words: "activation flip"."""
        pattern = "" if self.pattern == "single" else f", {self.pattern}"
        return f"{self.where} {self.op}{pattern}"


class LensRecord(LensPart):
    """The fault lens over a finished campaign."""

    name: str = Field(description="name of the campaign")
    version: int = Field(description="version of this form")
    confidence: float = Field(description="of every interval")
    seed: int = Field(description="of the sample and of the resampling")
    size: int = Field(description="faults asked for, of each fault model")
    absorbed_below: float = Field(description="relative deviation under which a fault counts as absorbed")
    resamples: int = Field(description="of images, for the intervals of areas")
    classes: int = Field(description="of the model")
    states: list[str] = Field(description="the states between the blocks")
    definitions: dict[str, str] = Field(description="what the words of this file mean")
    models: list[LensModel] = Field(description="of each fault model")


class LensPlanModel(LensPart):
    """What would be looked at, of one fault model."""

    where: str = Field(description="`activation` or `weight`")
    op: str = Field(description="of the fault model")
    pattern: str = Field(description="of the fault model")
    rows: int = Field(description="stored rows")
    behind: int = Field(description="rows that the lens does not see")
    sample: list[SampledGroup] = Field(description="how faults would be drawn")


class LensPlan(LensPart):
    """What the lens would do."""

    name: str = Field(description="name of the campaign")
    seed: int = Field(description="of the sample")
    images: int = Field(description="images whose golden states would be computed")
    models: list[LensPlanModel] = Field(description="of each fault model")


def read_lens(folder: RunFolder) -> LensRecord | None:
    """The last lens of these very results, for the page; None where there is none. Raises StaleArtefact if edited."""
    record = folder.record(STAGE)
    if record is None or record.inputs.get("results") != folder.output_hash("execute", RESULTS):
        return None
    folder.verify(STAGE)
    return load_lens(folder / LENS)


def load_lens(path: Path) -> LensRecord:
    """Raises StaleArtefact for a damaged file."""
    return read_form(path, LensRecord, "a fault lens over a campaign", f"run `{COMMAND} {path.parent}` again")
