import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from testbed.core.errors import UsageError
from testbed.models.config import uniform
from testbed.sensitivity.class_space import probe as probe_module
from testbed.sensitivity.class_space.probe import (
    ProbedState,
    ProbePosition,
    RidgeSums,
    probe_layers,
    probe_passes,
    probe_positions,
    probed_states,
    training_shots,
)
from testbed.sensitivity.class_space.stream import observe
from tests.support.held_memory import held_bytes
from tests.support.site_tensors import site_tensors

EVERYWHERE: list[ProbePosition] = [0, 1, 2, 3, 4, "pooled"]
VIT_BASE = uniform(12, 12, 3072, image=224, patch=16, channels=3, width=768, classes=1000)
ONE_PROBE_BYTES = 8 * 8 * (8 + 3 + 1)
SITES = {"attention": "attn.proj", "mlp": "mlp.fc2", "block": "mlp.residual"}


def features(model, split, state, position):
    seen = site_tensors(model, torch.from_numpy(split.batch(slice(None))))
    values = seen[f"block.{state.block}.{SITES[state.state]}"].astype(np.float64)
    return values[:, 1:].mean(1) if position == "pooled" else values[:, position]


def test_probes_are_scikit_learns_ridge(make_model, make_split, monkeypatch):
    monkeypatch.setattr("testbed.sensitivity.class_space.stream.LARGEST_BATCH", 7)
    model, training, test = make_model(), make_split(30, seed=1), make_split(24, seed=2)
    states = probed_states(model.config)
    fit = RidgeSums(dict.fromkeys(states, EVERYWHERE), 3, 1.0)
    observe(model, training, [fit])
    solved = fit.solved()
    rows = {
        (r.block, r.state, r.position): r for r in probe_layers(model, training, test, positions=EVERYWHERE, shots=10)
    }
    assert len(rows) == len(states) * 6
    targets = 2.0 * np.eye(3)[training.labels] - 1
    for state in states:
        held_out = np.stack([features(model, test, state, position) for position in EVERYWHERE], axis=1)
        predicted = solved[state].predict(torch.from_numpy(held_out)).numpy()
        for column, position in enumerate(EVERYWHERE):
            ridge = Ridge(alpha=1.0).fit(features(model, training, state, position), targets)
            wanted = ridge.predict(held_out[:, column])
            assert predicted[:, column] == pytest.approx(wanted, abs=1e-6)
            row = rows[state.block, state.state, position]
            assert row.accuracy.value == pytest.approx((wanted.argmax(1) == test.labels).mean())
            assert (row.accuracy.images, row.training_images, row.shots) == (24, 30, 10)


def test_several_passes_give_the_same(make_model, make_split, monkeypatch):
    model, training, test = make_model(), make_split(12), make_split(12, seed=3)
    at_once = probe_layers(model, training, test, positions=EVERYWHERE)
    monkeypatch.setattr(probe_module, "SUMS_BYTES", 4 * ONE_PROBE_BYTES + 3)
    passes = probe_passes(model.config, EVERYWHERE)
    assert [sum(map(len, probed.values())) for probed in passes] == [4] * 9
    # a state whose positions lie in two passes has its rows all the same, in their order
    assert probe_layers(model, training, test, positions=EVERYWHERE) == at_once


def test_a_pass_is_over_before_the_next_takes_memory(make_model, make_split, monkeypatch):
    model, split, held_after = make_model(width=16), make_split(12), []
    monkeypatch.setattr(probe_module, "SUMS_BYTES", 4 * 8 * 16 * (16 + 3 + 1))
    passes = probe_passes(model.config, EVERYWHERE)
    with held_bytes() as held:
        before = held()
        probe_layers(
            model, split, split, positions=EVERYWHERE, advance=lambda images: held_after.append(held() - before)
        )
    assert len(held_after) == 2 * len(passes) > 10  # training and test images are a batch each
    assert max(held_after[2:]) < 1.1 * max(held_after[:2])


def test_sums_of_one_pass_are_bounded_at_base_size():
    everywhere = probe_positions(VIT_BASE, "all")
    assert len(everywhere) == 197
    for positions in (everywhere, probe_positions(VIT_BASE, "auto"), [0]):
        passes = probe_passes(VIT_BASE, positions)
        probes = [(state, position) for each in passes for state, there in each.items() for position in there]
        assert probes == [(state, position) for state in probed_states(VIT_BASE) for position in positions]
        assert max(sum(map(len, each.values())) for each in passes) * 8 * 768 * (768 + 1000 + 1) <= 2**30
    assert len(probe_passes(VIT_BASE, probe_positions(VIT_BASE, "auto"))) == 4


def test_a_large_model_has_a_sample_of_its_positions():
    sample = probe_positions(VIT_BASE, "auto", seed=1)
    assert sample[:2] == [0, "pooled"]
    numbers = [position for position in sample[2:] if position != "pooled"]
    assert sample[2:] == sorted(set(numbers))
    assert all(1 <= position < 197 for position in numbers)
    assert len(sample) == 10
    assert sample == probe_positions(VIT_BASE, "auto", seed=1)
    assert sample != probe_positions(VIT_BASE, "auto", seed=2)


def test_a_probe_too_large_for_memory_is_refused_before_anything_runs(make_model, monkeypatch):
    monkeypatch.setattr(probe_module, "SUMS_BYTES", ONE_PROBE_BYTES - 1)
    with pytest.raises(UsageError, match="a probe at width 8 and 3 classes needs"):
        probe_passes(make_model().config, [0])


def test_positions_are_those_the_model_has(make_model):
    config = make_model().config
    assert probe_positions(config, "all") == [0, 1, 2, 3, 4]
    assert probe_positions(config, "auto") == [0, 1, 2, 3, 4]
    assert probe_positions(config, "cls") == [0]
    assert probe_positions(config, ("pooled", 2)) == ["pooled", 2]
    assert probe_positions(config, (3, 1, 3)) == [3, 1]
    with pytest.raises(UsageError, match="no token 5; positions are 0 to 4"):
        probe_positions(config, (5,))
    with pytest.raises(UsageError, match="no CLS token"):
        probe_positions(make_model(pooling="mean", cls_token=False).config, "cls")


def test_shots_are_a_seeded_choice_of_each_class(make_split):
    split = make_split(30)
    chosen = training_shots(split, 4, 3, seed=0)
    assert np.bincount(chosen.labels).tolist() == [4, 4, 4]
    assert chosen.ids == training_shots(split, 4, 3, seed=0).ids
    assert chosen.ids != training_shots(split, 4, 3, seed=1).ids
    with pytest.raises(UsageError, match="class 0 has 10 training images, and a probe takes 11"):
        training_shots(split, 11, 3, seed=0)


def test_states_are_those_the_model_has(make_model):
    config = make_model().config.with_(heads=(0, 2), mlp=(6, 0))
    assert probed_states(config) == [
        ProbedState(0, "mlp"),
        ProbedState(0, "block"),
        ProbedState(1, "attention"),
        ProbedState(1, "block"),
    ]
