from dataclasses import replace

import pytest
import torch

from testbed.data import load
from testbed.models.config import uniform
from testbed.train import recipe


@pytest.fixture(scope="session")
def digits():
    """A small part of the digits: what a test of the loop can afford."""
    whole = load("digits", seed=0)
    return replace(whole, train=whole.train.subset(slice(0, 200)), validation=whole.validation.subset(slice(0, 80)))


@pytest.fixture(scope="session")
def tiny():
    """A model of a few thousand weights, with dropout, so that its randomness is tested too."""
    return uniform(1, 2, 16, image=8, patch=4, channels=1, width=16, classes=10, head_width=8, dropout=0.1)


@pytest.fixture(scope="session")
def quick():
    return recipe("digits", epochs=4, warmup_epochs=0, augmentation="shift", input_noise=0.2, select="best")


@pytest.fixture(scope="session")
def weights():
    """model -> all its weights in one vector."""
    return lambda model: torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture(scope="session")
def same(weights):
    """(a, b) -> have they the same weights, to the bit, and the same curves but for the times?"""

    def untimed(trained):
        return [replace(record, seconds=0.0) for record in trained.curves]

    def compared(a, b):
        return (
            torch.equal(weights(a.model), weights(b.model))
            and untimed(a) == untimed(b)
            and a.best_epoch == b.best_epoch
        )

    return compared
