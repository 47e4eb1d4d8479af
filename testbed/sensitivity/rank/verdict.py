"""What a comparison of a score with a campaign lets one say, alone and among several comparisons.

A verdict is a sentence made from the interval and the permuted control, never from the estimate alone. Where several scores
are held against the same campaign, the best of them would look good by luck: each verdict then also needs a p-value that
Holm's step-down method has adjusted for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from testbed.analysis.multiplicity import holm_adjusted

CONTROL_SHARE = 0.05
"""A claim is made where luck would do as well in at most this share of cases."""

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class CorrelationInterval:
    """None where it is not defined: all components alike."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Validation:
    """A score held against measured rates.

    spearman, kendall, top_k: with the rates as measured, which noise in them lowers; spearman_true, kendall_true,
    top_k_true: with the true rates, of which the verdict speaks. ``top_k``: overlap of the k highest of both, as a share of
    k. ``control``: share of permutations of the score whose Spearman correlation is at least as high. p_value: of what the
    verdict claims, two-sided over the bootstrap's replicates and, of agreement, no lower than the control; None where
    nothing can be judged. p_adjusted: by Holm's method, for so many ``comparisons``.
    """

    by: str
    components: int
    spearman: CorrelationInterval
    kendall: CorrelationInterval
    top_k: CorrelationInterval
    spearman_true: CorrelationInterval
    kendall_true: CorrelationInterval
    top_k_true: CorrelationInterval
    k: int
    control: float | None
    passed: bool
    verdict: str
    p_value: float | None = None
    p_adjusted: float | None = None
    comparisons: int = 1

    def judged(self, confidence: float) -> Validation:
        """The same with its verdict. confidence: of the intervals."""
        passed, text = _verdict(self, confidence)
        return replace(self, passed=passed, verdict=text)


def two_sided_p(replicates: Sequence[float | None]) -> float | None:
    """Twice the share of bootstrap replicates on the rarer side of 0 (at 0 counts to both), the estimate counted along
    (Davison & Hinkley 1997, section 4.2); None without any."""
    known = [value for value in replicates if value is not None]
    if not known:
        return None
    rarer = min(sum(value <= 0 for value in known), sum(value >= 0 for value in known))
    return min(1.0, 2 * (1 + rarer) / (1 + len(known)))


def claim_p(value: float | None, bootstrap: float | None, control: float | None) -> float | None:
    """The p-value of a correlation's claim: of agreement, both luck and the faults drawn must be ruled out."""
    if value is None or bootstrap is None or control is None:
        return None
    return max(bootstrap, control) if value > 0 else bootstrap


def correct_for_comparisons(validations: Mapping[Name, Validation], confidence: float) -> dict[Name, Validation]:
    """The same validations, each judged as one of them all. What cannot be judged counts as no comparison."""
    p_values = [float("nan") if v.p_value is None else v.p_value for v in validations.values()]
    comparisons = max(1, sum(v.p_value is not None for v in validations.values()))
    adjusted = holm_adjusted(p_values).tolist()
    return {
        name: replace(validation, p_adjusted=None if validation.p_value is None else p, comparisons=comparisons).judged(
            confidence
        )
        for (name, validation), p in zip(validations.items(), adjusted, strict=True)
    }


def _verdict(validation: Validation, confidence: float) -> tuple[bool, str]:
    by, correlation, control, n = validation.by, validation.spearman_true, validation.control, validation.components
    level, measured = f"{100 * confidence:g} % interval", validation.spearman.value
    undefined = measured is None or correlation.value is None
    if undefined or correlation.low is None or correlation.high is None or control is None:
        return False, f"{by} cannot be judged: the {n} components have equal scores, or equal measured rates."
    text = f"Spearman {correlation.value:.2f}, {level} {correlation.low:.2f} to {correlation.high:.2f}"
    text += f", {measured:.2f} as measured, {n} components"
    corrected, surely, significant = "", "", True
    if validation.comparisons > 1 and validation.p_adjusted is not None:
        p, comparisons = f"{validation.p_adjusted:.2g}", f"corrected for {validation.comparisons} comparisons"
        corrected, surely = f"; p {p}, {comparisons}", f"but p is {p} once {comparisons}: that may be luck"
        significant = validation.p_adjusted <= CONTROL_SHARE
    chance = f"a permuted score does as well in {100 * control:.1f} % of cases"
    if correlation.high < 0 and significant:
        return False, f"{by} ranks the components the wrong way round ({text}{corrected})."
    if correlation.high < 0:
        return False, f"{by} seems to rank the components the wrong way round ({text}), {surely}."
    if correlation.low <= 0:
        return False, f"{by} is not shown to rank the components as the campaign does ({text}{corrected})."
    if control > CONTROL_SHARE:
        return False, (
            f"{by} agrees with the campaign ({text}{corrected}), but {chance}: too few components to tell it from luck."
        )
    if not significant:
        return False, f"{by} agrees with the campaign ({text}; {chance}), {surely}."
    return True, f"{by} ranks the components as the campaign does ({text}; {chance}{corrected})."
