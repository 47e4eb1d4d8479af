"""What protection changed of one fault model, of rows made up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from testbed.protect.paired.model_pairs import ModelPairs
from testbed.protect.paired.record import AffectedRows, ProtectedGroup

WRONG, RIGHT = 7, 3


def row(plain: str, protected: str, count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Rows of one image each. The protected output is wrong and outside where the plain one is, unless changed."""
    wrong = plain == "sdc1"
    values = {
        "target": "model",
        "where": "activation",
        "op": "flip",
        "site": "s",
        "kind": "fc1",
        "bit_class": "exponent",
        "tier": 0,
        "stratum": 0,
        "population": 1_000,
        "outcome": plain,
        "outcome_b": protected,
        "nonfinite": False,
        "top1_golden": RIGHT,
        "top1_golden_b": RIGHT,
        "top1_faulty_b": WRONG if wrong else RIGHT,
        "mismatches_b": 5 if plain not in ("identical", "masked") else 0,
        "index": 4,
        "bit": 30,
        "image_id": "i",
        "max_abs_diff": 1.0,
        "max_abs_diff_b": np.inf,
    }
    return [values | changes for _ in range(count)]


def pairs(*rows: list[dict[str, Any]]) -> ModelPairs:
    frame = pd.DataFrame([values for part in rows for values in part])
    numbers = np.arange(len(frame))
    return ModelPairs(frame.assign(fault_id=frame.get("fault_id", numbers), fault_id_b=numbers + 100), 0.95)


def overall(model: ModelPairs) -> ProtectedGroup:
    return next(group for group in model.groups() if group.by == "all")


def affected(model: ModelPairs, event: str) -> AffectedRows:
    return next(entry for entry in model.affected() if (entry.by, entry.event) == ("all", event))


def test_what_is_left_is_what_no_alarm_told_of() -> None:
    """20 wrong outputs: 12 with an alarm, 5 corrected, 3 as before; and one that protection spoils."""
    model = pairs(
        row("sdc1", "detected", 12),
        row("sdc1", "masked", 5, top1_faulty_b=RIGHT, mismatches_b=0),
        row("sdc1", "sdc1", 3),
        row("masked", "sdc1", 1, mismatches_b=2, top1_faulty_b=WRONG),
        row("masked", "masked", 79),
    )
    group = overall(model)
    assert (group.faults, group.rows) == (100, 100)
    change = group.sdc1
    assert change is not None
    assert change.before.rate == pytest.approx(0.20)
    assert change.after.rate == pytest.approx(0.04)
    assert change.after_without_alarms.rate == pytest.approx(0.16)
    assert change.removed.share == pytest.approx(0.8)
    assert change.corrected.share == pytest.approx(0.2)
    assert change.new_rows == 1
    assert change.new.rate == pytest.approx(0.01)
    assert group.outside.before.rate == pytest.approx(0.20)
    assert group.outside.after.rate == pytest.approx(0.04)
    (new,) = model.new_sdc()
    assert (new.fault_id, new.fault_id_b, new.outcome, new.max_abs_diff_b) == (20, 120, "masked", None)


@pytest.mark.parametrize(("detected", "n"), [(0, 9), (17, 20), (40, 40)])
def test_detection_of_rows_drawn_alike_has_clopper_and_pearsons_bounds(detected: int, n: int) -> None:
    model = pairs(row("sdc1", "detected", detected), row("sdc1", "sdc1", n - detected), row("masked", "masked", 30))
    seen = affected(model, "sdc1").detected
    assert seen.rows == detected
    assert seen.rate == pytest.approx(detected / n)
    for level, bound in ((0.95, seen.low_95), (0.99, seen.low_99)):
        exact = binomtest(detected, n, alternative="greater").proportion_ci(level, "exact").low
        assert bound <= exact + 1e-6
        assert bound == pytest.approx(exact, abs=0 if detected == n else 0.005, rel=1e-6)
    two_sided = binomtest(detected, n).proportion_ci(0.95, "exact")
    assert (seen.low, seen.high) == pytest.approx((two_sided.low, two_sided.high), abs=0.005)


def test_rows_weigh_by_their_stratum_and_groups_are_told_apart() -> None:
    """A stratum of 9 times the population, in another tier and kind of site, where nothing is detected."""
    light = {"stratum": 1, "population": 9_000, "tier": 1, "kind": "gelu", "site": "t"}
    model = pairs(row("sdc1", "detected", 10), row("sdc1", "sdc1", 10, **light), row("masked", "masked", 10, **light))
    assert affected(model, "sdc1").detected.rate == pytest.approx(1_000 / (1_000 + 4_500))
    shares = {(g.by, g.value): g.sdc1.removed.share for g in model.groups() if g.sdc1}
    assert shares == {
        ("all", None): pytest.approx(1 / 5.5),
        ("kind", "fc1"): 1.0,
        ("kind", "gelu"): 0.0,
        ("bit_class", "exponent"): pytest.approx(1 / 5.5),
        ("tier", "0"): 1.0,
        ("tier", "1"): 0.0,
    }


def test_images_of_one_fault_are_a_cluster() -> None:
    """Sixty images of three faults know no more than three: Clopper and Pearson's bound of 3 of 3."""
    weight = {"where": "weight", "image_id": "many"}
    model = pairs(*(row("sdc1", "detected", 20, fault_id=fault, **weight) for fault in range(3)))
    seen = affected(model, "sdc1")
    assert (seen.faults, seen.rows) == (3, 60)
    assert seen.detected.low_95 == pytest.approx(0.05 ** (1 / 3), abs=1e-6)


def test_what_was_not_finite_is_followed_into_silence() -> None:
    lost = {"nonfinite": True}
    model = pairs(
        row("sdc1", "sdc1", 1, **lost),
        row("due", "masked", 2, **lost),
        row("sdc1", "detected", 1, **lost),
        row("sdc1", "sdc1", 6),
    )
    entry = affected(model, "nonfinite")
    assert entry.rows == 4
    assert {part.outcome: part.rows for part in entry.became} == {"masked": 2, "sdc1": 1, "detected": 1}
    assert {part.outcome: part.rate.rate for part in entry.became} == pytest.approx(
        {"masked": 0.5, "sdc1": 0.25, "detected": 0.25}
    )


def test_alarms_that_were_not_needed() -> None:
    model = pairs(row("masked", "detected", 3), row("sdc1", "detected", 1), row("masked", "masked", 6))
    needless = model.needless()
    assert (needless.alarms, needless.needless) == (4, 3)
    assert needless.of_alarms is not None
    assert needless.of_alarms.rate == pytest.approx(0.75)
    assert needless.of_rows.rate == pytest.approx(0.3)
    quiet = pairs(row("masked", "masked", 3)).needless()
    assert (quiet.of_alarms, quiet.of_rows.rate) == (None, 0)


def test_without_classes_there_is_no_sdc1() -> None:
    model = pairs(
        row("sdc", "detected", 2, top1_golden=-1, top1_golden_b=-1), row("masked", "masked", 2, top1_golden=-1)
    )
    assert overall(model).sdc1 is None
    assert overall(model).outside.removed.share == 1
    assert {entry.event for entry in model.affected()} == {"outside"}
