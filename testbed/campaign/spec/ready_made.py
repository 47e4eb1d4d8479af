"""Ready-made campaign specs: commented TOML files that travel with the package, to run as they are or to begin one's own."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

_SCHEMA_LINE = re.compile(r"^#:schema .*\n")
_NAME = re.compile(r'^name = "[^"]*"', re.MULTILINE)


@dataclass(frozen=True)
class ReadyMade:
    """``about``: the first sentence of the file's opening comment."""

    name: str
    path: Path
    about: str

    def text_named(self, name: str, with_schema: bool = False) -> str:
        """The file's text, of a campaign called ``name``; with_schema: with the line that names the schema beside it."""
        text = self.path.read_text()
        if not with_schema:
            text = _SCHEMA_LINE.sub("", text, count=1)
        return _NAME.sub(f'name = "{name}"', text, count=1)


@cache
def ready_made() -> dict[str, ReadyMade]:
    """Name -> spec, sorted by name."""
    specs = {}
    for path in sorted(_folder().glob("*.toml"), key=lambda path: path.stem):
        text = path.read_text()
        specs[path.stem] = ReadyMade(str(tomllib.loads(text)["name"]), path, _about(text))
    return specs


def ready_made_named(name: str) -> ReadyMade:
    """Raises UsageError naming the known ones."""
    if name not in ready_made():
        raise UsageError(unknown("ready-made spec", name, ready_made()))
    return ready_made()[name]


def where_specs_are(missing: Path) -> str:
    """What to do about a spec file that is not there."""
    if missing.stem in ready_made():
        return f"write it with: testbed campaign new {missing.stem}"
    return "ready-made specs: testbed campaign list"


def _folder() -> Path:
    """The folder in an installed package; in a checkout, or an editable install of one, ``campaigns/`` beside the
    package."""
    package = Path(__file__).parents[2]  # testbed/
    packed = package / "campaigns"
    return packed if packed.is_dir() else package.parent / "campaigns"


def _about(text: str) -> str:
    comment = []
    for line in _SCHEMA_LINE.sub("", text).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    first, _, _ = " ".join(comment).replace(": ", ". ").partition(". ")
    return first.rstrip(".")
