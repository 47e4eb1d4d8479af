import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from testbed.core.errors import UsageError
from testbed.models.config import uniform
from testbed.sensitivity.class_space import probe as probe_module
from testbed.sensitivity.class_space.probe import (
    ProbedState,
    RidgeSums,
    probe_layers,
    probe_passes,
    probe_positions,
    probed_states,
    training_shots,
)
from testbed.sensitivity.class_space.stream import observe
from tests.support.site_tensors import site_tensors

VIT_BASE = uniform(12, 12, 3072, image=224, patch=16, channels=3, width=768, classes=1000)
SITES = {"attention": "attn.proj", "mlp": "mlp.fc2", "block": "mlp.residual"}


def features(model, split, state):
    seen = site_tensors(model, torch.from_numpy(split.batch(slice(None))))
    return seen[f"block.{state.block}.{SITES[state.state]}"].astype(np.float64)


def test_probes_are_scikit_learns_ridge(make_model, make_split, monkeypatch):
    monkeypatch.setattr("testbed.sensitivity.class_space.stream.LARGEST_BATCH", 7)
    model, training, test = make_model(), make_split(30, seed=1), make_split(24, seed=2)
    states = probed_states(model.config)
    fit = RidgeSums(states, range(5), 3, 1.0)
    observe(model, training, [fit])
    solved = fit.solved()
    rows = {
        (r.block, r.state, r.position): r for r in probe_layers(model, training, test, positions=range(5), shots=10)
    }
    assert len(rows) == len(states) * 5
    targets = 2.0 * np.eye(3)[training.labels] - 1
    for state in states:
        x, held_out = features(model, training, state), features(model, test, state)
        predicted = solved[state].predict(torch.from_numpy(held_out)).numpy()
        for position in range(5):
            ridge = Ridge(alpha=1.0).fit(x[:, position], targets)
            wanted = ridge.predict(held_out[:, position])
            assert predicted[:, position] == pytest.approx(wanted, abs=1e-6)
            row = rows[state.block, state.state, position]
            assert row.accuracy.value == pytest.approx((wanted.argmax(1) == test.labels).mean())
            assert (row.accuracy.images, row.training_images, row.shots) == (24, 30, 10)


def test_several_passes_give_the_same(make_model, make_split, monkeypatch):
    model, training, test = make_model(), make_split(12), make_split(12, seed=3)
    at_once = probe_layers(model, training, test, positions=[0, 2])
    each = 8 * 2 * (8 + 1) * (8 + 3)
    monkeypatch.setattr(probe_module, "SUMS_BYTES", 2 * each)
    assert [len(states) for states in probe_passes(model.config, [0, 2])] == [2, 2, 2]
    assert probe_layers(model, training, test, positions=[0, 2]) == at_once


def test_sums_too_large_for_memory_are_refused_before_anything_runs():
    assert len(probe_passes(VIT_BASE, [0])) == 1
    with pytest.raises(UsageError, match=r"197 positions .* need 2\.0 GiB; probe 49 positions at most"):
        probe_passes(VIT_BASE, range(197))


def test_positions_are_those_the_model_has(make_model):
    config = make_model().config
    assert probe_positions(config, "all") == [0, 1, 2, 3, 4]
    assert probe_positions(config, "cls") == [0]
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
