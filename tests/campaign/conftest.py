"""What tests of whole campaigns share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.victims import Victims


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """Processes that run campaigns and are killed at chosen operations."""
    processes = Victims(tmp_path_factory.mktemp("victims") / "log")
    yield processes
    processes.close()
