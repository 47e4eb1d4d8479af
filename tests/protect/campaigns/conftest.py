"""A copy of the finished campaign with a [protect] table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def protected_copy(protected_campaign: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(protected_campaign, tmp_path / "copy"))
