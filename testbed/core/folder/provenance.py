"""What a manifest says of the run's origin: command, time, source, versions, machine; nobody's name unless asked for."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from testbed.core.folder.forms import Form

RECORD_HOST = "TESTBED_RECORD_HOST"  # environment variable: 1 records the names of the machine and the user too
_REPORTED = (
    "testbed",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
)


class HostInfo(Form):
    """The machine that a run was begun on. name, user: only where they are asked for."""

    machine: str
    system: str
    processor: str
    cores: int | None
    python: str
    name: str | None = None
    user: str | None = None


class Provenance(Form):
    """Where a run is from. created: UTC, ISO 8601; versions: of the libraries that are installed."""

    argv: list[str]
    created: str
    git_revision: str | None
    host: HostInfo
    versions: dict[str, str]


def provenance(argv: Sequence[str]) -> Provenance:
    """The provenance of a run that is begun now."""
    host = HostInfo(
        machine=platform.machine(),
        system=platform.platform(),
        processor=processor(),
        cores=os.cpu_count(),
        python=platform.python_version(),
        **who(),
    )
    return Provenance(
        argv=list(argv),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=git_revision(),
        host=host,
        versions=library_versions(),
    )


def library_versions() -> dict[str, str]:
    """Versions of the testbed and of the libraries that its numbers depend on, as far as they are installed."""
    return {name: v for name in _REPORTED if (v := installed_version(name))}


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def version_lines() -> list[str]:
    """What a bug report needs to say: the testbed, its revision in a clone, Python, system and libraries. Imports none."""
    revision = git_revision()
    lines = [f"testbed {installed_version('testbed')}", *([f"git {revision}"] if revision else [])]
    lines += [f"python {platform.python_version()}", f"system {platform.platform()}"]
    return lines + [f"{name} {v}" for name in _REPORTED[1:] if (v := installed_version(name))]


def processor() -> str:
    """The CPU's model name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def git_revision() -> str | None:
    """Revision of the source tree this package runs from, "+changes" if it differs; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        revision = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        changes = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def who() -> dict[str, str]:
    """The machine's and the user's name, for those who ask for them: a manifest is made to be published."""
    if os.environ.get(RECORD_HOST, "") in ("", "0"):
        return {}
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return {"name": platform.node(), "user": user}
