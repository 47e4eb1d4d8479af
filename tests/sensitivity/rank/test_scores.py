"""The images that scores are measured on."""

from dataclasses import replace

import numpy as np
import pytest

from testbed.core.errors import UsageError
from testbed.data import load
from testbed.sensitivity.rank.images import analysis_set
from testbed.sensitivity.rank.settings import ScoreSettings


@pytest.fixture(scope="module")
def by_class():
    """The digits, sorted by class: as a folder of class folders is read."""
    digits = load("digits")
    validation = digits.validation
    return replace(digits, validation=validation.subset(np.argsort(validation.labels, kind="stable")))


def test_they_are_of_all_classes_and_follow_from_the_seed(by_class):
    chosen = analysis_set(by_class, ScoreSettings(images=34, seed=1))
    counts = np.bincount(chosen.labels.numpy())
    assert (counts.sum(), counts.max() - counts.min()) == (34, 1)
    assert chosen.ids == analysis_set(by_class, ScoreSettings(images=34, seed=1)).ids
    assert chosen.ids != analysis_set(by_class, ScoreSettings(images=34, seed=2)).ids
    with pytest.raises(UsageError, match="9 images for 10 classes"):
        analysis_set(by_class, ScoreSettings(images=9))
