from __future__ import annotations

import io
import re
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.core.words.console import Lines, PlainConsole

HOSTILE = "a[/b][red]:smile:\x1b[31m\x9b1m\x07\r\nb\u202e\u2028\udce9"
SHOWN = r"a[/b][red]:smile:\x1b[31m\x9b1m\x07\r\nb\u202e\u2028\udce9"


def printed(*what: RenderableType, width: int = 200, terminal: bool = False) -> str:
    file = io.StringIO()
    colours: Literal["standard"] | None = "standard" if terminal else None
    PlainConsole(file=file, width=width, highlight=False, force_terminal=terminal, color_system=colours).print(*what)
    return file.getvalue()


def table(*rows: str, **options: Any) -> Table:
    made = Table("one", "two\nlines", **options)
    for row in rows:
        made.add_row(row, "x")
    return made


@pytest.mark.parametrize(
    "what",
    [
        HOSTILE,
        Group(HOSTILE),
        table(HOSTILE),
        table(title=HOSTILE),
        Group(table(HOSTILE)),
        Table(HOSTILE.replace("\n", "n")),
    ],
)
def test_a_string_is_one_line_and_means_its_characters(what: RenderableType) -> None:
    told = printed(what)
    assert SHOWN.replace(r"\n", "n") in re.sub("\\s", "", told).replace(r"\n", "n")  # titles are wrapped
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", told)


def test_a_text_keeps_its_styles_and_loses_what_a_terminal_would_obey() -> None:
    text = Text.assemble("\x1b[1m", ("red\u202e", "red"), "\nplain")
    assert printed(text, terminal=True) == "\\x1b[1m\x1b[31mred\\u202e\x1b[0m\\nplain\n"


def test_of_lines_only_the_ends_are_obeyed() -> None:
    assert printed(Group(Lines("one\x1b[31m\ntwo\u202e"))) == "one\\x1b[31m\ntwo\\u202e\n"


def test_headings_may_have_line_ends() -> None:
    lines = printed(table("x")).splitlines()
    assert "two" in lines[1]
    assert "lines" in lines[2]


def test_a_console_leaves_the_table_as_it_was() -> None:
    made = table(HOSTILE)
    assert printed(made) == printed(made)
    assert made.columns[1].header == "two\nlines"


@settings(max_examples=60)
@given(st.lists(st.text(max_size=20), max_size=4), st.integers(30, 60))
def test_no_name_breaks_a_table(names: list[str], narrow: int) -> None:
    wide = printed(table(*names), width=400).splitlines()
    assert len(wide) == 5 + len(names)
    for lines in (wide, printed(table(*names), width=narrow).splitlines()):
        assert len({cell_len(line) for line in lines}) == 1
