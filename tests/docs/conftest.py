"""The documentation site, built once for all processes of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.once import made_once

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(cache_dir: Path) -> Path:
    """The folder of the built site. The build is strict: a warning fails it, unless --quiet keeps it from being logged."""
    return made_once(cache_dir / "site", _build)


def _build(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, timeout=300
    )
    assert built.returncode == 0, built.stderr
