"""Faults that are settled without being run: a sample of them is run all the same, and one that is wrong stops everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from testbed.campaign.evaluate.contract import Evaluated, Evaluator, Injections
from testbed.campaign.evaluate.suffix.dead import SAMPLED, Disproved, check_dead, chosen
from testbed.campaign.evaluate.suffix.routes import Way
from testbed.export.onnx import plain_onnx
from testbed.instrument.cut.flow import CannotCut
from testbed.models.config import FinalNorm, NormOrder, ViTConfig
from testbed.models.vit import ViT
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


SHAPES: dict[str, Any] = {"image": 6, "patch": 2, "channels": 1, "width": 8, "classes": 3, "head_width": 4}


@st.composite
def configs(draw: st.DrawFn) -> ViTConfig:
    """Small ViTs that are classified by one token, so that the last block leaves others unread."""
    norms: NormOrder = draw(st.sampled_from(get_args(NormOrder)))
    blocks = draw(st.integers(1, 3))
    least = int(norms == "residual_post")
    counts = [draw(st.lists(st.integers(least, 2), min_size=blocks, max_size=blocks)) for _ in range(2)]
    final: FinalNorm = draw(st.sampled_from(get_args(FinalNorm)))
    heads, mlp = tuple(counts[0]), tuple(8 * units for units in counts[1])
    return ViTConfig(heads=heads, mlp=mlp, norm_order=norms, pooling="cls", final_norm=final, **SHAPES)


@pytest.mark.parametrize("hostile", [False, True])
@settings(
    max_examples=4, deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck)
)
@given(configs(), st.integers(0, 2**16))
def test_no_weights_make_a_proof_wrong(hostile: bool, config: ViTConfig, seed: int) -> None:
    """Faults that are proven not to reach the output leave its bits alone on random models: also on weights that overflow,
    vanish, are infinite or NaN, where every bound on numbers would be worthless."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = ViT(config).eval()
    rng = np.random.default_rng(seed)
    if hostile:
        for weight in model.parameters():
            chosen = torch.tensor(rng.random(weight.shape) < 0.02)
            values = rng.choice([1e38, -1e38, 1e-45, np.inf, -np.inf, np.nan, 3e19], weight.shape)
            weight.data[chosen] = torch.tensor(values, dtype=weight.dtype)[chosen]
    try:
        lab = Lab(plain_onnx(model, torch.zeros(2, 1, 6, 6), input_name="image").SerializeToString())
    except CannotCut:  # of blocks without attention and MLP nothing is left to cut between
        reject()
    injections, dead = dead_of(lab, 600)
    assert check_dead(injections, dead, lab.whole, lab.table, one_of=1) == len(dead)
