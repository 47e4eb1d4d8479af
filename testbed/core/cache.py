"""The user's cache folder: things that are costly to make and named by what they were made from. Losing it loses time
only."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$TESTBED_CACHE, else $XDG_CACHE_HOME/testbed, else ~/.cache/testbed."""
    if own := os.environ.get("TESTBED_CACHE"):
        return Path(own).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "testbed"  # XDG: relative ones are ignored
