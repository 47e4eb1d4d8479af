"""One finished campaign with a [protect] table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.protect_table import run_table, table_spec


@pytest.fixture(scope="session")
def protected_campaign(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("protect-table") / "run"
    run_table(table_spec(), folder)
    return folder


@pytest.fixture
def protected_copy(protected_campaign: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(protected_campaign, tmp_path / "copy"))
