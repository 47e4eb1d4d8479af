"""The digits: real images, split three ways, with ids that point into scikit-learn's own order."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from testbed.core.errors import UsageError
from testbed.data import load


def test_splits_share_no_image_and_cover_all():
    data = load("digits")
    parts = [data.train.ids, data.validation.ids, data.test.ids]
    assert [len(p) for p in parts] == [898, 180, 719]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 1797


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_every_digit_keeps_its_share(part):
    labels = getattr(load("digits"), part).labels
    share = np.bincount(labels, minlength=10) / len(labels)
    whole = np.bincount(load_digits().target) / 1797
    assert labels.dtype == np.int64
    assert np.abs(share - whole).max() < 0.01


def test_ids_name_scikit_learns_rows():
    source, split = load_digits(), load("digits").test
    for position in (0, 17, len(split) - 1):
        row = int(split.ids[position].removeprefix("digits/"))
        assert split.labels[position] == source.target[row]
        np.testing.assert_array_equal(split.pixels(position) * 16, source.images[row])


def test_model_input_is_normalised_float32():
    data = load("digits")
    x = data.train.batch(slice(None))
    assert x.shape == (898, 1, 8, 8)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    np.testing.assert_array_equal(data.train.batch([5, 2]), x[[5, 2]])
    shown = data.train.pixels(5)
    np.testing.assert_allclose(x[5, 0], (shown - data.mean[0]) / data.std[0], rtol=1e-6)


def test_the_seed_decides_the_split():
    assert load("digits").test.sha256() == load("digits").test.sha256()
    assert load("digits").test.sha256() != load("digits", seed=1).test.sha256()


def test_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match=r"unknown data set 'digit'; did you mean 'digits'. Known: .*digits"):
        load("digit")
