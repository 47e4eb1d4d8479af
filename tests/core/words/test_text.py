from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from testbed.core.words.text import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("block.0.attn.q", "block.0.attn.q"),
        ("größe 大 ≥ é [/b] :smile:", "größe 大 ≥ é [/b] :smile:"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\r\tand a tab", r"two\nlines\r\tand a tab"),
        ("\x9b31m\u2028", r"\x9b31m\u2028"),
        ("abc\u202egnp.exe\u2066\u200b", r"abc\u202egnp.exe\u2066\u200b"),
        ("caf\udce9", r"caf\udce9"),  # a byte of a file's name that is no UTF-8
        ("", ""),
    ],
)
def test_what_a_terminal_obeys_is_escaped_and_the_rest_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(), max_size=50))
def test_every_text_is_one_line_that_can_be_written_and_stays_what_it_is(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert cell_len(shown) >= 0
    assert visible(shown) == shown
