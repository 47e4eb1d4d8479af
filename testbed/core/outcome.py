"""What a fault did to one image's output: an exclusive partition (names after Li et al., SC'17)."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Literal


class Outcome(StrEnum):
    """``SDC`` is for targets whose output has no classes (the attention subnetwork): outside the tolerance, no
    top-1. ``DETECTED``: the engine's own checks raised an alarm, whatever the output is."""

    IDENTICAL = "identical"
    MASKED = "masked"
    SDC_TOLERABLE = "sdc_tolerable"
    SDC1 = "sdc1"
    SDC = "sdc"
    DUE = "due"
    DETECTED = "detected"


OUTCOMES: tuple[str, ...] = tuple(Outcome)
NOT_OUTSIDE: tuple[Outcome, ...] = (Outcome.IDENTICAL, Outcome.MASKED, Outcome.DETECTED)
"""All others are outputs outside the tolerance, or none at all, of which the engine itself said nothing."""
FLAGS: tuple[str, ...] = ("nonfinite", "sdc5", "sdc10", "sdc20", "detected", "infrastructure_failure")


class How(IntEnum):
    """``WHOLE``: the whole twin was run. ``SUFFIX``: from the fault's block on, from golden inputs. ``ROWS``: in the
    fault's own block, or in the last, only the tokens that it can reach. ``UNCHANGED``: run up to a place where every
    bit was golden again. ``DEAD``: not run, the site cannot reach the output. ``INCREMENTAL``: computed from the golden
    output and the change, to within a bound. All but the last are exact.
    """

    WHOLE = 0
    SUFFIX = 1
    ROWS = 2
    UNCHANGED = 3
    DEAD = 4
    INCREMENTAL = 5


HOWS: tuple[str, ...] = tuple(how.name.lower() for how in How)


DUES = ("crash", "hang", "nonfinite")

MEASURE_NAMES = {"sdc1": "SDC-1", "outside": "outside", "nonfinite": "non-finite"}
"""What rates are given of, and how each is written: a changed top-1 class, any output outside the tolerance, an output that
is not finite."""
MEASURES: tuple[str, ...] = tuple(MEASURE_NAMES)
CHECK_MEASURES: tuple[str, ...] = ("detected",)
"""What rates are given of besides, where the engine checks itself: an alarm of its own checks."""
Event = Literal["sdc1", "any"]
EVENTS: dict[Event, str] = {"sdc1": "SDC-1", "any": "any corruption"}
"""What a tolerance is to detect, and how each is written."""
