"""What is measured is what ran, in rounds, and a ratio is of the same rounds. No real time passes here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from testbed.bench.timing import Budget, interleaved, percentiles, ratio_to


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0
        self.log: list[str] = []

    def __call__(self) -> int:
        return self.now_ns

    def subject(self, name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now_ns += int(ms * 1e6)

        return run


def test_subjects_take_turns_and_each_has_its_own_time() -> None:
    clock = Clock()
    subjects = [clock.subject(name, ms) for name, ms in (("a", 2), ("b", 5), ("c", 1))]
    samples = interleaved(subjects, Budget(warm_up_s=0, seconds=1e9, runs=7), clock)
    assert [set(mine) for mine in samples] == [{2.0}, {5.0}, {1.0}]
    rounds = clock.log[3:]  # after one warm-up run of each
    assert len(rounds) == 21
    assert all(sorted(rounds[i : i + 3]) == ["a", "b", "c"] for i in range(0, 21, 3))
    assert [rounds[i] for i in range(0, 9, 3)] == ["a", "b", "c"]


@pytest.mark.parametrize(("seconds", "runs", "expected"), [(0.02, 100, 10), (5, 4, 4), (1e-9, 100, 6)])
def test_it_ends_after_the_time_or_the_runs(seconds: float, runs: int, expected: int) -> None:
    clock = Clock()
    samples = interleaved([clock.subject("a", 2), clock.subject("b", 20)], Budget(0.1, seconds, runs), clock)
    assert [len(mine) for mine in samples] == [expected] * 2
    assert clock.log.count("a") >= 50  # 0.1 s of warm-up


def test_few_rounds_have_no_interval() -> None:
    """Of one round every resample is that round: an interval without width."""
    for rounds in (1, 5):
        few = ratio_to(np.full(rounds, 2.0), np.full(rounds, 1.2))
        assert (few.value, few.low, few.high) == (0.6, None, None)
        assert str(few) == "0.600 (too few rounds for an interval)"
    assert str(ratio_to(np.full(6, 2.0), np.full(6, 1.2))) == "0.600 [0.600, 0.600]"


def test_percentiles_are_numpys() -> None:
    found = percentiles(np.arange(1.0, 101.0))
    assert found == pytest.approx({"p50_ms": 50.5, "p90_ms": 90.1, "p95_ms": 95.05, "p99_ms": 99.01})


def test_a_slow_moment_of_the_machine_hardly_moves_the_ratio() -> None:
    rng = np.random.default_rng(1)
    weather = 1 + (rng.random(400) < 0.3) * 2.0  # in nearly a third of the rounds everything takes three times as long
    base, other = 10 * weather * rng.normal(1, 0.01, 400), 5 * weather * rng.normal(1, 0.01, 400)
    found = ratio_to(base, other)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.01
    same = ratio_to(base, base)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
