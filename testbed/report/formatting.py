"""Numbers as people read them: as many digits as the interval warrants, no more."""

from __future__ import annotations

import math

from testbed.core.words.bounds import percent_at_least
from testbed.report.estimate import RateEstimate

_SPACE = "\u202f"  # narrow, and no line is broken there
OP_NAMES = {"flip": "bit flips", "stuck0": "stuck-at-0", "stuck1": "stuck-at-1", "random": "random values"}
MEASURE_NAMES = {"sdc1": "SDC-1", "nonfinite": "nonfinite", "outside": "outside tolerance"}
OUTCOME_NAMES = {
    "identical": "identical",
    "masked": "masked",
    "sdc_tolerable": "SDC-tolerable",
    "sdc1": "SDC-1",
    "sdc": "SDC",
    "due": "DUE",
    "detected": "detected",
}
CLASS_NAMES = {
    "sign": "sign",
    "exponent_top": "top exponent bit",
    "exponent": "other exponent bits",
    "mantissa_high": "upper mantissa",
    "mantissa_low": "lower mantissa",
    "magnitude": "magnitude",
    "word": "whole word",
}


def model_name(op: str) -> str:
    """A fault model by the summary's label: "flip" is "bit flips", "flip x burst-4" is "bit flips, burst-4"."""
    name, comma, rest = op.replace(" x ", ", ").partition(", ")
    return OP_NAMES[name] + comma + rest


def count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def percent(share: float, decimals: int | None = None) -> str:
    """ "3.1 %": two significant digits unless told otherwise."""
    return f"{percent_number(share, decimals)}{_SPACE}%"


def percent_bound(share: float) -> str:
    """An upper bound, never understated: "18 %"."""
    return f"{percent_at_least(share)}{_SPACE}%"


def percent_number(share: float, decimals: int | None = None) -> str:
    if share == 0:
        return "0"
    value = 100 * share
    if decimals is None:
        decimals = _decimals(abs(value))
    return f"{value:.{decimals}f}"


def _decimals(size: float, digits: int = 2) -> int:
    """Decimal places that show ``digits`` significant digits of a number of this size."""
    if size <= 0:
        return 0
    magnitude = math.floor(math.log10(size) + 1e-9)  # 0.9999999 is 1
    return min(8, max(0, digits - 1 - magnitude))


def interval_decimals(estimate: RateEstimate) -> int:
    """Decimal places of a percentage that show two digits of the interval's half-width."""
    return _decimals(50 * (estimate.high - estimate.low) or 100 * estimate.rate)


def rate(estimate: RateEstimate | None) -> str:
    """ "3.12 % [2.95, 3.30]"."""
    if estimate is None:
        return "not measured"
    return f"{rate_only(estimate)} {interval(estimate)}"


def rate_only(estimate: RateEstimate) -> str:
    """A rate as precise as its interval; a rate above zero never looks like zero."""
    return percent(estimate.rate, max(interval_decimals(estimate), _decimals(100 * estimate.rate, digits=1)))


def interval(estimate: RateEstimate) -> str:
    low, high = (percent_number(end, interval_decimals(estimate)) for end in (estimate.low, estimate.high))
    return f"[{low},\u00a0{high}]"


def compact_interval(estimate: RateEstimate) -> str:
    """Ends of the interval in percent, one or two significant digits each: "0.9-3.8", for the cells of a heat map."""
    return "–".join(compact(end) for end in (estimate.low, estimate.high))


def compact(share: float) -> str:
    """A percentage in at most four characters: 12, 3.1, 0.39, 0.04."""
    value = 100 * share
    if value == 0:
        return "0"
    if value < 0.01:
        return "<.01"
    return f"{value:.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f}"


def bounds(estimate: RateEstimate) -> str:
    """ "; below 0.12 % at 95 %, 0.18 % at 99 %, one-sided"; nothing where they are not known."""
    if estimate.high_95 is None or estimate.high_99 is None:
        return ""
    return f"; below {percent_bound(estimate.high_95)} at 95 %, {percent_bound(estimate.high_99)} at 99 %, one-sided"


def sample(estimate: RateEstimate) -> str:
    """ "214 faults, 13,696 rows", or "214 faults" where each is one row."""
    if estimate.faults == estimate.rows:
        return f"{count(estimate.faults)} faults"
    return f"{count(estimate.faults)} faults, {count(estimate.rows)} rows"


def value(number: float) -> str:
    """A struck value: "-0.375784", "-1.27873e+38", "NaN", "+inf"."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+inf" if number > 0 else "-inf"
    return f"{number:.6g}"


def small(number: float | None) -> str:
    """A deviation or a bound: "1.2e-7"."""
    if number is None:
        return "not measured"
    if number == 0 or 0.01 <= abs(number) < 1000:
        return f"{number:.2g}"
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def amount(number: float) -> str:
    """A quantity that has a unit of its own: "12,345", "542", "0.0041"."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g}{_SPACE}s" if seconds < 10 else f"{seconds:.0f}{_SPACE}s"
    minutes = seconds / 60
    return f"{minutes:.1f}{_SPACE}min" if minutes < 100 else f"{minutes / 60:.1f}{_SPACE}h"


def one_in(share: float) -> str:
    """ "1 in 86", rounded as coarsely as a reader would."""
    chances = 1 / share
    if chances < 10:
        shown = f"{chances:.2g}"
    else:
        step = 10 ** max(0, math.floor(math.log10(chances)) - 1)
        shown = f"{round(chances / step) * step:,}"
    return f"1 in {shown}"
