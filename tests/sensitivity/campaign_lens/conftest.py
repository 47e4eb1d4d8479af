"""The tiny campaign's rows and faults, as the lens takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testbed.campaign.run import Run
    from testbed.sensitivity.campaign_lens.rows import LensRows


@pytest.fixture
def opened(tiny_run: Path) -> Iterator[Run]:
    """The tiny campaign."""
    from testbed.campaign.run import Run

    with Run(tiny_run) as run:
        yield run


@pytest.fixture
def rows_of_models(opened: Run) -> list[LensRows]:
    """The rows of its fault models: flips of activations, flips of weights."""
    from testbed.sensitivity.campaign_lens.rows import read_lens_rows

    return read_lens_rows(opened)
