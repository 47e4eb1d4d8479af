"""The code on the pages of the developer guide: its titled blocks, and what their diffs make of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "developer"
_BLOCK = re.compile(r'^```(?P<kind>\w+) title="(?P<file>[^"]+)"\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """(kind, file, text) of a page's titled code blocks."""
    for block in _BLOCK.finditer((GUIDE / page).read_text()):
        yield block["kind"], block["file"], block["text"]


def is_of_the_tree(file: str) -> bool:
    """Whether a block's file is one of the package's, rather than the reader's own."""
    return file.startswith(("testbed/", "tests/", "pyproject"))


def patched(text: str, diff: str) -> str:
    """Hunks are parted by "@@" and say lines as they are (" "), that go ("-") and that come ("+")."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = [line or " " for line in hunk.splitlines()]
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"not once in the file:\n{before}"
        text = text.replace(before, after)
    return text
