"""Bounds as people read them: in a few digits, rounded away from what they bound, so that none is claimed too tightly.

A bound is taken as the number that its shortest decimal says, which is the number that a reader gets who types it.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

_DIGITS = 3
_PERCENT_DIGITS = 2


def at_least(bound: float) -> str:
    """A bound in three digits that are never below it: "3.46e-7"."""
    return tolerance(float(_rounded(bound, _DIGITS, ROUND_CEILING)))


def at_most(bound: float) -> str:
    """A bound in three digits that are never above it."""
    return tolerance(float(_rounded(bound, _DIGITS, ROUND_FLOOR)))


def percent_at_least(share: float) -> str:
    """A share's percentage in two digits that are never below it, without the sign: "4.6", "18"."""
    if share == 0:
        return "0"
    percentage = 100 * _rounded(share, _PERCENT_DIGITS, ROUND_CEILING)
    return f"{percentage:.{max(0, _PERCENT_DIGITS - 1 - percentage.adjusted())}f}"


def tolerance(number: float) -> str:
    """ "1e-4", "0.01", "1.23e-7": at most three digits; "inf" where none is enough."""
    if number == 0 or 0.001 < abs(number) < 1000 or not math.isfinite(number):
        return f"{number:.3g}"
    mantissa, _, exponent = f"{number:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _rounded(number: float, digits: int, rounding: str) -> Decimal:
    return Context(prec=digits, rounding=rounding).create_decimal(repr(float(number)))
