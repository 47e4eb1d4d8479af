"""Numbers that options take: each has both bounds, so that no typing error asks for years of work or all of memory."""

from __future__ import annotations

from typing import Any

import click

from testbed.core.errors import UsageError
from testbed.core.process.resources import require_memory, require_threads

MOST = (1 << 31) - 1
LARGEST = 1e38
LARGEST_SEED = (1 << 32) - 1
LARGEST_BATCH = 8192
_LONGEST = 30  # characters of a number
_WORKER_BYTES = 150 << 20  # of one that has only imported what it needs


class Whole(click.IntRange):
    """A whole number, from ``least`` to ``most``; help tells the upper bound where it is one that matters."""

    def __init__(self, least: int = 0, most: int = MOST) -> None:
        super().__init__(least, None if most == MOST else most)
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(_short(self, value, param, ctx), param, ctx)
        if number > self.most:
            self.fail(f"at most {self.most:,}, not {number:,}", param, ctx)
        return number


class Number(click.FloatRange):
    """A finite number, from ``least`` to ``most``; help tells the bounds that matter."""

    def __init__(self, least: float = -LARGEST, most: float = LARGEST) -> None:
        super().__init__(None if least == -LARGEST else least, None if most == LARGEST else most)
        self.most = most

    def _describe_range(self) -> str:
        """Nothing where there is no bound; click would write "x<=None"."""
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(_short(self, value, param, ctx), param, ctx)
        if not -LARGEST <= number <= LARGEST:  # nor is NaN
            self.fail(f"{value} is not a number of at most {LARGEST:g}", param, ctx)
        return number


class Confidence(Number):
    """A confidence of intervals: as in a spec."""

    def __init__(self) -> None:
        super().__init__(0.01, 1 - 1e-9)


class Threads(Whole):
    """A number of threads, as many as the machine has use for."""

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        count = super().convert(value, param, ctx)
        try:
            require_threads(count)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return count


class Workers(Whole):
    """Processes; each takes memory of its own. 0: none but this one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        count = super().convert(value, param, ctx)
        try:
            require_threads(count, "workers")
            require_memory(count * _WORKER_BYTES, f"{count} workers", "ask for fewer")
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return count


def _short(kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    if isinstance(value, str) and len(value.strip()) > _LONGEST:
        kind.fail(
            f"{value.strip()[:8]}... has {len(value.strip()):,} characters, which no number here needs", param, ctx
        )
    return value
