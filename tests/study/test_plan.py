"""What a study would train: checked whole before anything is trained."""

from dataclasses import replace

import numpy as np
import pytest

from testbed.core.errors import UsageError
from testbed.models.runs import DataSource
from testbed.study.plan import StudyPlan
from testbed.study.spec import study_named

TINY = {"image": 8, "patch": 4, "width": 16, "heads": 2, "depth": 1, "mlp": 16, "head_width": 8}


def tiny(name="attention", settings=TINY, **fields):
    return study_named(name).changed({"batch": 50, **settings}, **{"dataset": "digits", "epochs": 1, **fields})


def planned(name="attention", seeds=2, **fields):
    return StudyPlan.of(tiny(name, **fields), DataSource("digits"), seeds)


def test_every_variant_is_trained_on_every_seed_with_its_own_split():
    plan = planned(train_images=100, test_images=50)
    assert [(variant.variant.name, seed) for variant, seed, _ in plan.trainings()] == [
        ("softmax", 0),
        ("softmax", 1),
        ("differential", 0),
        ("differential", 1),
    ]
    softmax, differential = plan.variants
    for ours, theirs in zip(softmax.trainings, differential.trainings, strict=True):
        assert ours.dataset is theirs.dataset
        assert (ours.seed, ours.recipe) == (theirs.seed, theirs.recipe)
        assert ours.config == replace(theirs.config, attention="softmax")
        assert (len(ours.dataset.train), len(ours.dataset.test)) == (100, 50)
    first, second = (training.dataset for training in softmax.trainings)
    assert first.train.ids != second.train.ids
    assert not {*first.train.ids} & {*first.validation.ids}
    assert not {*first.test.ids} & {*first.train.ids, *first.validation.ids}


def test_the_epoch_is_chosen_by_validation_whatever_the_recipe_does():
    plan = planned(recipe="digits")
    assert {training.recipe.select for _, _, training in plan.trainings()} == {"best"}
    assert {training.recipe.name for _, _, training in plan.trainings()} == {"digits"}


def test_published_values_are_of_the_published_setting_only():
    def is_published(spec, preprocess=None):
        return StudyPlan(spec, DataSource("cifar10", preprocess=preprocess), (0,), ()).is_published_setting

    study = study_named("patch")
    assert is_published(study)
    assert is_published(study.changed({}))
    assert not is_published(study.changed({}, epochs=10))
    assert not is_published(study.changed({"width": 64}))
    assert not is_published(study.changed({}, dataset="cifar100"))
    assert not is_published(study.changed({}, train_images=5000))
    assert not is_published(study, "half")
    assert not is_published(study_named("attention"))


def test_what_is_planned_can_be_read(tmp_path):
    described = planned().describe()
    assert (described["trainings"], described["seeds"]) == (4, [0, 1])
    assert [variant["name"] for variant in described["variants"]] == ["softmax", "differential"]
    assert described["variants"][1]["parameters"] == described["variants"][0]["parameters"] + 1  # its one lambda


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": 9}, "study 'attention', variant 'softmax': 9 training images are too few for 10 classes"),
        ({"train_images": 5000}, "5,000 training images are asked for, data set 'digits' has 898"),
        ({"test_images": 5000}, "5000 images are asked for, and there are 719"),
        ({"settings": TINY | {"select": "last"}}, "a study chooses the epoch by validation images; leave select out"),
        ({"settings": TINY | {"head_width": 7}}, "variant 'differential': model: differential attention halves head_width"),
        ({"settings": TINY | {"depth": -1}}, "model: depth must be a whole number of blocks, 0 to 512, not -1"),
        ({"settings": TINY | {"classes": 3}}, "the model's classes is 3, data set 'digits' has 10"),
        ({"settings": TINY | {"augmentation": "mixup"}}, "unknown augmentation 'mixup'"),
        ({"seeds": 0}, "a study takes 1 to 1000 seeds, not 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_names_the_variant(change, message):
    with pytest.raises(UsageError) as refused:
        planned(**change)
    assert message in str(refused.value)


def test_a_setting_that_every_variant_sets_would_have_no_effect():
    with pytest.raises(UsageError, match="--set attention: every variant of study 'attention' sets it"):
        tiny(settings={"attention": "softmax"})


def test_without_training_images_there_is_no_study(tmp_path):
    file = tmp_path / "test.npz"
    np.savez(file, images=np.full((20, 8, 8), 200, np.uint8), labels=np.arange(20) % 10)
    with pytest.raises(UsageError, match=r"study 'attention', variant 'softmax': .* no training images"):
        StudyPlan.of(tiny(dataset=f"npz:{file}"), DataSource(f"npz:{file}"), 1)
