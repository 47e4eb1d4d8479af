import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from testbed.core.errors import UsageError
from testbed.data import load
from testbed.models.presets import PRESETS, preset
from testbed.train import RECIPES, Recipe, logits, recipe, recipe_of_preset, train

PUBLISHED = {
    "fashion-mnist": {"epochs": 150, "batch": 64, "optimiser": "adam", "learning_rate": 1e-3},
    "cifar10-study": {"epochs": 50, "batch": 128, "optimiser": "adamw", "learning_rate": 1e-3, "schedule": "cosine"},
    "vit-224": {"epochs": 100, "batch": 100, "optimiser": "adam", "learning_rate": 1e-4, "schedule": "cosine"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_are_as_published(name):
    values = recipe(name).to_json()
    assert {key: values[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert values["select"] == "best"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_through_plain_values_and_back(name):
    assert Recipe.from_json(recipe(name).to_json()) == recipe(name)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_recipe(preset):
    assert recipe_of_preset(preset) in RECIPES


def test_the_presets_of_a_study_share_its_recipe():
    names = ("digits", "fashion-mnist", "tiny-imagenet", "cifar10", "cifar10-3", "vit-tiny-16-224")
    assert [recipe_of_preset(name) for name in names] == [
        *("digits", "fashion-mnist", "tiny-imagenet"),
        *("cifar10-study", "cifar10-study", "vit-224"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, r"unknown key 'epoch'; did you mean 'epochs'\? Known: name, epochs"),
        ({"optimiser": "lion"}, "optimiser must be one of adam, adamw, sgd, not 'lion'"),
        ({"epochs": -1}, "epochs must be 0 to 100,000, not -1"),
        ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
        ({"epochs": math.inf}, "epochs must be a whole number, not inf"),
        ({"batch": 0}, "batch must be 1 to 65,536: .*, not 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, not 'fast'"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be a number, not nan"),
        ({"label_smoothing": 1}, r"label_smoothing must be in \[0, 1\)"),
        ({"amp": 1}, "amp must be true or false, not 1"),
        ({"augmentation": 3}, "augmentation must be a name, not 3"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(UsageError, match=message):
        recipe("digits", **changes)


def test_unknown_and_incomplete_recipes_are_refused():
    with pytest.raises(
        UsageError, match=r"unknown recipe 'digit'; did you mean 'digits'\? Known: digits, fashion-mnist"
    ):
        recipe("digit")
    with pytest.raises(UsageError, match="epochs, batch missing"):
        Recipe.from_json({"name": "mine", "optimiser": "sgd", "learning_rate": 0.1})


@given(st.integers(1, 200), st.integers(0, 20), st.floats(1e-6, 1.0))
def test_cosine_rises_to_the_rate_and_falls_towards_zero(epochs, warmup, rate):
    chosen = recipe("digits", epochs=epochs + warmup, warmup_epochs=warmup, learning_rate=rate)
    rates = [chosen.rate(epoch) for epoch in range(1, epochs + warmup + 1)]
    assert rates[warmup] == rate == max(rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert all(r > 0 for r in rates)


def test_cosine_at_its_known_points():
    chosen = recipe("cifar10-study", epochs=4, learning_rate=1.0)
    expected = [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    assert [chosen.rate(epoch) for epoch in (1, 2, 3, 4)] == pytest.approx(expected)


def test_constant_stays_after_the_warm_up():
    chosen = recipe("fashion-mnist", warmup_epochs=1, learning_rate=1.0)
    assert [chosen.rate(epoch) for epoch in (1, 2, 150)] == [0.5, 1, 1]


@pytest.mark.slow
def test_the_digits_recipe_is_accurate_and_fills_every_confidence_tier():
    """What the ready-made campaign rests on."""
    test = load("digits", seed=42).test
    model = train(preset("digits"), load("digits", seed=42), recipe("digits"), seed=42).model
    probabilities = softmax(logits(model, test).astype(np.float64), axis=1)
    correct = probabilities.argmax(1) == test.labels
    ranked = np.sort(probabilities[correct], axis=1)
    tiers = np.ceil(4 * (ranked[:, -1] - ranked[:, -2])).astype(int)
    assert correct.mean() >= 0.955
    assert np.bincount(tiers, minlength=5)[1:].min() >= 24
