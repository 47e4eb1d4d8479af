"""Kinds of option values that several commands take."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from testbed.cli.options.numbers import LARGEST, MOST
from testbed.core.words.nearest import unknown
from testbed.engines.backends import known_engines


class ImageRange(click.ParamType):
    """``A:B``, the positions A, A + 1, ..., B - 1; A is 0 when left out."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        first, colon, end = str(value).partition(":")
        try:
            bounds = int(first or 0), int(end)
        except ValueError:
            self.fail(f"{value!r} is no range; write A:B, such as 0:250", param, ctx)
        if not colon or not 0 <= bounds[0] < bounds[1] <= MOST:
            self.fail(f"{value!r} is no range of images; write A:B with A below B, such as 0:250", param, ctx)
        return bounds


class ImagesOption(ImageRange):
    """``N``, so many chosen images, as an int; or ``A:B``."""

    name = "images"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, (int, tuple)):
            return value
        if ":" in str(value):
            return super().convert(value, param, ctx)
        try:
            wanted = int(value)
        except ValueError:
            wanted = 0
        if not 1 <= wanted <= MOST:
            self.fail(f"{value!r}: write a number of images to choose, such as 250, or a range A:B", param, ctx)
        return wanted


class CountsOption(click.ParamType):
    """Whole numbers separated by commas, each from 0 to ``most``."""

    name = "counts"

    def __init__(self, most: int = MOST) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            counts = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write whole numbers separated by commas, such as 64,64,128,256", param, ctx)
        if not all(0 <= count <= self.most for count in counts):
            self.fail(f"{value!r}: whole numbers from 0 to {self.most:,} are wanted", param, ctx)
        return counts


class EngineOption(click.ParamType):
    """The name of an engine, which the shell completes. Whether there is one, and in which precisions, the work that needs it
    says."""

    name = "engine"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in known_engines() if name.startswith(incomplete)]


class WordsOption(click.ParamType):
    """Some of the known words, separated by commas, in their order."""

    name = "words"

    def __init__(self, *known: str) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(dict.fromkeys(word.strip() for word in str(value).split(",") if word.strip()))
        if strange := [word for word in words if word not in self.known]:
            self.fail(unknown("word", strange[0], self.known), param, ctx)
        return words


class GridOption(click.ParamType):
    """Numbers separated by commas."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: write numbers separated by commas, such as .9,.8,.5", param, ctx)
        if not all(-LARGEST <= number <= LARGEST for number in numbers):  # nor is NaN
            self.fail(f"{value!r}: numbers of at most {LARGEST:g} are wanted", param, ctx)
        return numbers
