"""The sweep of a finished campaign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.sweeps import GRID, swept


@pytest.fixture(scope="session")
def result(swept_run: Path) -> dict[str, Any]:
    """What the sweep of `swept_run` over `GRID` says, with the noise of the twin and of the plain engine at batch 1."""
    return swept(swept_run, atol=GRID, noise=("twin", "ort-cpu@1"))
