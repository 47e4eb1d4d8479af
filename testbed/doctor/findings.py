"""What ``testbed doctor`` says about one thing, and how it asks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from testbed.core.errors import first_line

NEEDS_DRIVER = "an NVIDIA GPU with its driver"


@dataclass(frozen=True)
class Finding:
    """One thing asked about. ``detail``: what is there, or why it does not work; ``install``: what would help."""

    name: str
    available: bool
    version: str | None
    detail: str
    install: str | None = None


def probe(name: str, ask: Callable[[str], Finding], install: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # complaints about absent devices are what the finding itself says
            return ask(name)
    except ModuleNotFoundError as error:
        return Finding(name, False, None, f"{error.name} is not installed", install)
    except Exception as error:  # whatever a foreign library raises is a finding here, never a crash
        return Finding(name, False, None, f"does not work: {first_line(error)}", f"{install} --force-reinstall")
