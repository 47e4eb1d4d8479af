"""The process of one stage: python -m gpu_checks.child ENTRY SETTING RESULT PARTS, all files but the first."""

from __future__ import annotations

import ctypes
import importlib
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from gpu_checks.common import Absent, Section, Setting, plain, write_json
from testbed import TestbedError

_PR_SET_PDEATHSIG = 1


def run_section(section: Callable[[Setting], Section], setting: Setting) -> Section:
    """What the stage found, or why it failed; ``ran`` is false where it could not be tried."""
    try:
        return {"ran": True, **section(setting)}
    except Absent as absent:
        return {"ran": False, "ok": False, "reason": str(absent)}
    except TestbedError as error:
        return {"ran": True, "ok": False, "reason": str(error)}
    except Exception as error:  # a foreign library's, or a mistake of ours: the other stages are still worth running
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        first = next(iter(str(error).splitlines()), "")[:300]
        return {"ran": True, "ok": False, "reason": f"{type(error).__name__} at {place}: {first}"}


def _end_with_parent() -> None:
    """A tool that is killed leaves no process on the GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(entry: str, setting_file: str, result: str, parts: str) -> None:
    _end_with_parent()
    setting = Setting.from_json(Path(setting_file).read_text(), lambda facts: write_json(Path(parts), plain(facts)))

    def section(setting: Setting) -> Section:
        module, _, function = entry.partition(":")
        found: Section = getattr(importlib.import_module(module), function)(setting)
        return found

    write_json(Path(result), plain(run_section(section, setting)))


if __name__ == "__main__":
    main(*sys.argv[1:])
