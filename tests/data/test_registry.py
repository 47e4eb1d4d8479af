"""Names, roots, splits and hashes: what holds for every data set."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import UsageError
from testbed.data import Collection, Examples, data_root, load, register, registry
from testbed.data.splitting import stratified


@pytest.fixture(autouse=True)
def registry_unchanged(monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.entries()))


def squares(count=20, side=6, classes=2):
    images = np.arange(count * side * side, dtype=np.uint8).reshape(count, side, side)
    return Examples.from_arrays("squares", images, np.arange(count) % classes)


def test_the_docstring_s_example_works():
    found = doctest.DocTestFinder().find(registry.register, globs={})
    assert doctest.DocTestRunner().run(found[0]).failed == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", "unknown data set 'imagenet'; did you mean 'imagenet-s'. Known: .*digits.*imagefolder:PATH"),
        ("imagefolder", "write imagefolder:PATH"),
        ("npz:", "write npz:PATH"),
        ("digits:here", "it takes no path, write 'digits'"),
        ("", "unknown data set ''"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UsageError, match=message):
        load(name)


def test_every_data_set_of_the_manual_is_known():
    names = "digits mnist fashion-mnist cifar10 cifar100 tiny-imagenet imagenet-s imagefolder npz"
    assert set(names.split()) <= set(registry.entries())


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path / "variable"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "variable"
    monkeypatch.delenv("TESTBED_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TESTBED_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_root() == tmp_path / ".cache/testbed/data"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the XDG base directory specification
    assert data_root() == tmp_path / ".cache/testbed/data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data_root() == tmp_path / "xdg/testbed/data"
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "own"))
    assert data_root() == tmp_path / "own/data"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocess": "cifar10"}, "preprocess 'cifar10' is for 3 channels, the images have 1"),
        ({"preprocess": "zero"}, "unknown preprocess 'zero'; known: .*half.*none"),
        ({"image": -8}, "image size must be at least 1, not -8"),
        ({"image": 0}, "image size must be at least 1, not 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UsageError, match=message):
        load("digits", **arguments)


def test_a_registered_loader_s_mistakes_are_found():
    register("too-few-classes")(lambda request: Collection(classes=["one"], test=squares()))
    with pytest.raises(UsageError, match=r"label 1 of image 'squares/0001' is outside 0\.\.0 \(10 such in test\)"):
        load("too-few-classes")
    with pytest.raises(UsageError, match="two images share one id"):
        Examples(["a", "a"], np.zeros(2, int), squares(2).images)


def test_labels_can_not_be_written():
    test = load("digits").test
    with pytest.raises(ValueError, match="read-only"):
        test.labels[0] = 3


def test_a_split_is_read_by_slices_indices_and_ids():
    split = load("digits").test
    np.testing.assert_array_equal(split.batch(slice(3, 6)), split.batch([3, 4, 5]))
    np.testing.assert_array_equal(split.batch(np.array([5, 3])), split.batch([3, 4, 5])[[2, 0]])
    assert split.position(split.ids[17]) == 17
    with pytest.raises(UsageError, match=r"no image 'digits/9999' in this split.* for example 'digits/"):
        split.position("digits/9999")
    part = split.subset([7, 2])
    assert part.ids == [split.ids[7], split.ids[2]]
    np.testing.assert_array_equal(part.labels, split.labels[[7, 2]])
    np.testing.assert_array_equal(part.batch([1]), split.batch([2]))


def test_batches_cover_the_split_in_order():
    split = load("digits").validation
    images, labels = zip(*split.batches(70), strict=True)
    assert [len(i) for i in images] == [70, 70, 40]
    np.testing.assert_array_equal(np.concatenate(images), split.batch(slice(None)))
    np.testing.assert_array_equal(np.concatenate(labels), split.labels)


def test_an_empty_split_has_no_batches():
    register("test-only")(lambda request: Collection(classes=["even", "odd"], test=squares()))
    train = load("test-only").train
    assert len(train) == 0
    assert list(train.batches(4)) == []


def test_hash_changes_with_one_pixel_one_label_and_one_id():
    def loaded(images, labels, name="squares"):
        register("made")(lambda request: Collection(["even", "odd"], Examples.from_arrays(name, images, labels)))
        return load("made").test.sha256()

    images, labels = np.zeros((4, 6, 6), np.uint8), np.array([0, 1, 0, 1])
    other_pixel, other_label = images.copy(), labels.copy()
    other_pixel[3, 5, 5], other_label[3] = 1, 0
    hashes = {
        loaded(images, labels),
        loaded(other_pixel, labels),
        loaded(images, other_label),
        loaded(images, labels, "x"),
    }
    assert len(hashes) == 4
    assert loaded(images, labels) in hashes


def test_the_description_is_json_and_names_what_decides_the_input():
    import json

    described = json.loads(json.dumps(load("digits", seed=3, image=16, preprocess="half").describe().to_json()))
    assert described["seed"] == 3
    assert described["image"] == 16
    assert described["preprocess"]["mean"] == [0.5]
    assert described["images"] == {"train": 898, "validation": 180, "test": 719}


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**31),
)
def test_a_cut_loses_nothing_and_keeps_shares(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    if len(labels) < 2:
        return
    rest, part = stratified(np.arange(len(labels)), labels, share, seed)
    assert sorted([*rest, *part]) == list(range(len(labels)))
    assert list(rest) == sorted(rest)
    assert list(part) == sorted(part)
    assert len(part) == max(1, round(share * len(labels)))
    if min(counts) >= 2 and min(len(rest), len(part)) >= len(counts):
        given_away = np.bincount(labels[part], minlength=len(counts))
        assert np.abs(given_away - np.array(counts) * len(part) / len(labels)).max() <= 1
    again = stratified(np.arange(len(labels)), labels, share, seed)
    np.testing.assert_array_equal(again[1], part)
