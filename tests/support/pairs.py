"""A second campaign of the same rows under another engine's name, for tables and figures of several runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from testbed.core.folder.files import sha256_file, write_json
from testbed.core.folder.manifest import checksummed


def as_of_engine(run: Path, to: Path, backend: str) -> Path:
    """Copy a finished campaign, and have its summary say that it ran on ``backend``."""
    shutil.copytree(run, to)
    summary = json.loads((to / "summary.json").read_text())
    summary["engine"]["backend"] = backend
    write_json(to / "summary.json", summary)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["stages"]["summary"]["outputs"]["summary.json"] = sha256_file(to / "summary.json")
    write_json(to / "manifest.json", checksummed(manifest))
    return to
