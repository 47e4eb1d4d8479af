"""What a fault did to one image's output: an exclusive partition (names after Li et al., SC'17)."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """``SDC`` is for targets whose output has no classes (the attention subnetwork): outside the tolerance, no
    top-1."""

    IDENTICAL = "identical"
    MASKED = "masked"
    SDC_TOLERABLE = "sdc_tolerable"
    SDC1 = "sdc1"
    SDC = "sdc"
    DUE = "due"


OUTCOMES: tuple[str, ...] = tuple(Outcome)
FLAGS: tuple[str, ...] = ("nonfinite", "sdc5", "sdc10", "sdc20", "detected", "infrastructure_failure")
