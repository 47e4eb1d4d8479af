"""The form of a comparison of two engines: what `testbed campaign compare --json` prints, and tables and the API read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.compare.record import CampaignComparison, ComparedRate, ComparePart
from testbed.core.site import Target, Where

DifferBy = Literal["due", "detected", "unchanged", "nonfinite", "top1", "tolerance"]


class FaultPairing(ComparePart):
    """Which rows pair: those of the same fault and image."""

    by: list[str] = Field(description="columns that make a row of A the same as one of B")
    faults: int = Field(description="faults that pair")
    rows: int = Field(description="rows that pair")
    only_a: int = Field(description="rows of A alone")
    only_b: int = Field(description="rows of B alone")


class KappaRecord(ComparePart):
    """Cohen's kappa, with its interval."""

    value: float | None = Field(description="kappa; null where it is undefined")
    low: float | None = Field(description="lower end of its interval")
    high: float | None = Field(description="upper end")
    undefined: str | None = Field(description="why it is undefined")


class OutcomeMatrix(ComparePart):
    """Outcomes in A (down) and in B (across)."""

    outcomes: list[str] = Field(description="the outcomes that were seen, in the order of rows and columns")
    rows: list[list[int]] = Field(description="numbers of rows")
    shares: list[list[float]] = Field(description="weighted shares")


class AgreementRecord(ComparePart):
    """How far the outcomes agree, of one target, place and operation."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str | None = Field(description="the operation, with its pattern and scope; null over all of them")
    faults: int = Field(description="faults that pair")
    rows: int = Field(description="rows that pair")
    same_golden_word: float = Field(
        description="share of rows whose element held the same bits in both before the fault"
    )
    disagreeing_rows: int = Field(description="rows that differ by more than identical against masked")
    agreement: ComparedRate = Field(description="rows that agree, identical and masked being one")
    kappa: KappaRecord = Field(description="kappa, identical and masked being one")
    matrix: OutcomeMatrix = Field(description="the outcomes, identical and masked being one: `inside`")
    agreement_all: ComparedRate = Field(description="rows that agree, all outcomes told apart")
    kappa_all: KappaRecord = Field(description="kappa, all outcomes told apart")
    matrix_all: OutcomeMatrix = Field(description="the outcomes, all told apart")


class DisagreementCause(ComparePart):
    """How many rows of one target and place disagree by one kind of difference."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    differ_by: DifferBy = Field(description="the kind of difference")
    rows: int = Field(description="rows that disagree")
    faults: int = Field(description="faults of these rows")
    largest_distance: float | None = Field(description="the furthest from the tolerance; null where none is finite")
    largest_margin: float | None = Field(description="the largest margin of a faulty output; null without classes")


class Disagreement(ComparePart):
    """A row whose outcomes differ by more than identical against masked. Null: what has no finite value or no meaning."""

    differ_by: DifferBy = Field(
        description="`due`: noticed, or no output, in one only; `detected`: an alarm of the engine's own checks in one only;"
        " `unchanged`: the bit had that value already in one;"
        " `nonfinite`: NaN or infinity in one only; `top1`: another top-1 in one only; `tolerance`: it lies between them"
    )
    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    site: str = Field(description="the tensor")
    index: int = Field(description="flat index of the element")
    op: str = Field(description="the operation, with its pattern and scope")
    bit: int | None = Field(description="the bit; null for a whole word")
    image_id: str = Field(description="the image")
    tier: int = Field(description="its tier")
    top1_golden: int | None = Field(description="top-1 without the fault, in A")
    margin_golden: float | None = Field(description="margin without the fault, in A")
    fault_id_a: int = Field(description="number of the fault in A")
    fault_id_b: int = Field(description="number of the fault in B")
    outcome_a: str = Field(description="outcome in A")
    outcome_b: str = Field(description="outcome in B")
    faulty_value_a: float | None = Field(description="the element with the fault, in A")
    faulty_value_b: float | None = Field(description="the element with the fault, in B")
    max_abs_diff_a: float | None = Field(description="largest deviation of the output, in A")
    max_abs_diff_b: float | None = Field(description="largest deviation of the output, in B")
    atol_a: float | None = Field(description="absolute tolerance of the image's tier, in A")
    atol_b: float | None = Field(description="absolute tolerance of the image's tier, in B")
    masking_atol_a: float | None = Field(description="the smallest that masks the fault, in A")
    masking_atol_b: float | None = Field(description="the smallest that masks the fault, in B")
    distance_a: float | None = Field(description="how far these two are apart, in A")
    distance_b: float | None = Field(description="how far these two are apart, in B")
    top1_faulty_a: int | None = Field(description="top-1 with the fault, in A; -1 where an output is NaN")
    top1_faulty_b: int | None = Field(description="top-1 with the fault, in B; -1 where an output is NaN")
    margin_faulty_a: float | None = Field(description="margin with the fault, in A")
    margin_faulty_b: float | None = Field(description="margin with the fault, in B")


class Disagreements(ComparePart):
    """The rows whose outcomes differ by more than identical against masked."""

    rows: int = Field(description="their number")
    by_cause: list[DisagreementCause] = Field(description="counts per target, place and kind of difference")
    listed: list[Disagreement] = Field(description="all of them; of a kind, those that are no matter of rounding first")


class EngineComparison(CampaignComparison):
    """The same faults in two engines of one precision."""

    mode: Literal["engines"] = Field(description="`engines`: within one precision")
    pairing: FaultPairing = Field(description="which rows pair")
    method: str = Field(description="how the numbers are made, in words")
    agreement: list[AgreementRecord] = Field(description="per target and place: over all operations, then for each")
    disagreements: Disagreements = Field(description="the rows that disagree")
