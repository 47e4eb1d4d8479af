"""TOML and JSON of foreign hands: values come back as the libraries give them, what cannot be used is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.folder.parsing import DEEPEST, LARGEST_TEXT, json_value, text_of, toml_value

_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_PLAIN)
def test_json_is_read_as_the_library_reads_it(value: Any) -> None:
    assert json_value(json.dumps(value)) == value
    assert json_value(json.dumps(value).encode()) == value


@given(st.text())
def test_whatever_the_text_there_is_a_value_or_a_valueerror(text: str) -> None:
    for parse, plain in ((json_value, json.loads), (toml_value, tomllib.loads)):
        try:
            found = parse(text)
        except ValueError:  # nothing else
            continue
        else:
            assert repr(found) == repr(plain(text))


@pytest.mark.parametrize("depth", [DEEPEST + 1, 1000, 100_000])
@pytest.mark.parametrize(
    ("parse", "opening", "closing"),
    [
        (json_value, "[", "]"),
        (json_value, '{"a":', "}"),
        (toml_value, "[", "]"),
        (toml_value, "{a=", "}"),
        (toml_value, "a.", ""),
    ],
)
def test_deep_nesting_is_refused(parse: Any, opening: str, closing: str, depth: int) -> None:
    text = opening * depth + "1" + closing * depth
    if parse is toml_value:
        text = f"{opening * depth}b = 1" if not closing else f"a = {text}"
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        parse(text)


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 30, f"-{'9' * 20}"])
def test_so_are_whole_numbers_of_more_than_64_bits(number: str) -> None:
    for parse, text in ((json_value, number), (toml_value, f"a = {number}"), (toml_value, f"a = [[{number}]]")):
        with pytest.raises(ValueError, match="more than 64 bits"):
            parse(text)
    with pytest.raises(ValueError, match="more than 64 bits"):
        toml_value("a = 0x" + "f" * 5000)


@pytest.mark.parametrize("text", ["NaN", "[1, -Infinity]", '{"a": Infinity}'])
def test_json_has_no_nan(text: str) -> None:
    with pytest.raises(ValueError, match="is no number of JSON"):
        json_value(text)


def test_a_text_without_end_is_refused() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(ValueError, match=f"more than {LARGEST_TEXT >> 20} MiB"):
        text_of(Path("/dev/zero"))
