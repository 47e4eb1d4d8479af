"""The errors a user can cause. Each is one clear line that says the fix; the command line prints it, never a
traceback."""

from __future__ import annotations

from collections.abc import Sequence


class TestbedError(Exception):
    """Something the user can put right. ``exit_code`` is the process's exit status."""

    __test__ = False  # not a test class, whatever its name begins with
    exit_code = 1


def first_line(error: Exception) -> str:
    """The first line of what a foreign library raised, at most 200 characters; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class UsageError(TestbedError):
    """The request itself is wrong: an unknown name, key or value."""

    exit_code = 2


class SeveralErrors(UsageError):
    """Several things at once, a line each below the first."""

    def __init__(self, heading: str, lines: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"{heading}:", *(" ".join(line.splitlines()) for line in lines)]))


class GateFailed(TestbedError):
    """Everything ran, and a stated bound was not met."""

    exit_code = 3


class StaleArtefact(TestbedError):
    """A file of the run folder is missing, edited or truncated."""


class EngineError(TestbedError):
    """An engine could not be built, or did not do what was asked of it."""
