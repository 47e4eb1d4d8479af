"""tools/ as its scripts see it, the native libraries of tests/engines, and what stages of the GPU host's checks work with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engines.conftest import emulated_cuda_build, native_build

if TYPE_CHECKING:
    from gpu_checks.common import Setting

__all__ = ["emulated_cuda_build", "native_build"]

sys.path.append(str(Path(__file__).parents[2] / "tools"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, exported once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def setting(tmp_path: Path, shared: Path) -> Setting:
    from gpu_checks.common import Setting

    return Setting(gpu=False, quick=True, folder=tmp_path, shared=shared)
