"""Faults that are settled without being run: a sample of them is run all the same, and one that is wrong stops everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from testbed.campaign.evaluate.contract import Evaluated, Evaluator, Injections
from testbed.campaign.evaluate.suffix.dead import SAMPLED, Disproved, check_dead, chosen
from testbed.campaign.evaluate.suffix.routes import Way
from tests.support.suffix_lab import Lab, exported


class Changed:
    """The whole twin, but that faults change what they cannot reach."""

    def __init__(self, whole: Evaluator) -> None:
        self.whole = whole
        self.golden = whole.golden

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
        for evaluated in self.whole.evaluate(injections):
            outputs = evaluated.outputs.copy()
            outputs[0, 0] = np.nextafter(outputs[0, 0], np.inf)
            yield Evaluated.exact(evaluated.rows, outputs, evaluated.how[0])


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(exported("pre-norm"))


def dead_of(lab: Lab, count: int = 4000) -> tuple[Injections, np.ndarray]:
    injections = lab.injections(count, seed=21)
    ways, _, _ = lab.evaluator().routes.ways(injections)
    return injections, np.flatnonzero(ways == Way.DEAD)


def test_the_sample_is_of_the_size_it_says_and_depends_on_the_fault_alone(lab: Lab) -> None:
    injections, dead = dead_of(lab, 60_000)
    some = chosen(injections, dead)
    assert len(dead) / SAMPLED == pytest.approx(len(some), abs=4 * np.sqrt(len(dead) / SAMPLED))
    half = dead[::2]
    assert set(chosen(injections, half)) == set(some) & set(half)
    shuffled = np.random.default_rng(0).permutation(dead)
    again = injections.take(shuffled)
    assert set(shuffled[chosen(again, np.arange(len(shuffled)))]) == set(some)


def test_faults_that_reach_nothing_pass(lab: Lab) -> None:
    injections, dead = dead_of(lab)
    assert check_dead(injections, dead, lab.whole, lab.table, one_of=8) > 20
    assert check_dead(injections, dead[:0], lab.whole, lab.table) == 0


def test_one_disagreement_stops_the_campaign_and_names_the_fault(lab: Lab) -> None:
    injections, dead = dead_of(lab)
    some = chosen(injections, dead, 8)
    first = injections.take(some[:1])
    name = list(lab.table.ports)[int(first.ports.site[0, 0])]
    with pytest.raises(
        Disproved, match=rf"^a fault in {name}\[{first.ports.index[0, 0]}\] of named image {first.image[0]} was"
    ):
        check_dead(injections, dead, Changed(lab.whole), lab.table, one_of=8)


def test_a_campaign_that_calls_the_living_dead_is_stopped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The routes are broken on purpose: every token counts as one that nothing reads."""
    evaluator = lab.evaluator()
    injections = lab.injections(4000, seed=22)
    ways, ports, tokens = evaluator.routes.ways(injections)
    broken = np.full_like(ways, Way.DEAD), ports, tokens
    monkeypatch.setattr(evaluator.routes, "ways", lambda injections: broken)
    with pytest.raises(Disproved):
        list(evaluator.evaluate(injections))
