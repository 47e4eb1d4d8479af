"""Commands that are called in the process of the tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """The commands set up logging for their process; the tests share one."""
    logger = logging.getLogger("testbed")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
