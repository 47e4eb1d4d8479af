"""What somebody may have meant: the near names of real lists, and nothing where nothing is near."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.cli.main import COMMANDS
from testbed.core.words.nearest import meant, nearest, unknown

ENGINES = ("ort-cpu", "ort-cuda", "torch", "torch-cuda", "openvino", "tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("word", "known", "wanted"),
    [
        ("campain", COMMANDS, "campaign"),
        ("CAMPAIGN", COMMANDS, "campaign"),
        ("trade", COMMANDS, "tradeoff"),
        ("ortcpu", ENGINES, "ort-cpu"),
        ("tensor", ENGINES, "tensorrt"),
        ("OpenVino", ENGINES, "openvino"),
        ("drift", ("parity_max_abs", "drift_max_abs"), "drift_max_abs"),
        ("abacus", ENGINES, None),
        ("t", ENGINES, None),
        ("", ENGINES, None),
        ("anything", (), None),
    ],
)
def test_the_near_one(word: str, known: tuple[str, ...], wanted: str | None) -> None:
    assert nearest(word, known) == wanted


@given(st.text(), st.lists(st.text(), max_size=5))
def test_only_known_names_are_suggested(word: str, known: list[str]) -> None:
    found = nearest(word, known)
    assert found is None or found in known
    if word in known:
        assert found is not None
        assert found.casefold() == word.casefold()


def test_the_line() -> None:
    assert meant("ort-cup", ENGINES) == "; did you mean 'ort-cpu'?"
    assert unknown("engine", "ort-cup", ENGINES[:2]) == (
        "unknown engine 'ort-cup'; did you mean 'ort-cpu'? Known: ort-cpu, ort-cuda"
    )
    assert unknown("engine", "abacus", ENGINES[:2]) == "unknown engine 'abacus'; known: ort-cpu, ort-cuda"
