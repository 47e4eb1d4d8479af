"""A table loses no number, and is never wider than the terminal, however narrow that is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import Prose, broken, stacked
from tests.support.narrow import NUMBER, WIDTHS, numbers, shown


def rates_table() -> FittedTable:
    table = FittedTable(title="rates in %")
    for name in ("", "faults", "SDC-1", "outside tolerance"):
        table.add_column(name, justify="right" if name == "faults" else "left", no_wrap=True)
    table.add_row("flip, all", "11,776", "0.89 [0.76, 1.04]", "24.73 [24.25, 25.22]", style="bold")
    table.add_section()
    table.add_row("flip, by tier", style="italic")
    table.add_row("  (0.25, 0.5]", "2,944", "1.06 [0.76, 1.45]", "25.59 [24.59, 26.60]")
    return table


def test_a_wide_terminal_gets_a_ruled_table() -> None:
    lines = shown(rates_table(), 100)
    assert lines[0] == "rates in %"
    assert lines[4] == "│ flip, all     │ 11,776 │ 0.89 [0.76, 1.04] │ 24.73 [24.25, 25.22] │"
    assert lines[5].startswith("├")


def test_a_narrower_one_gets_no_frame() -> None:
    lines = shown(rates_table(), 64)
    assert [line.rstrip() for line in lines[3:4]] == ["flip, all      11,776  0.89 [0.76, 1.04]  24.73 [24.25, 25.22]"]


def test_then_columns_go_below_each_with_the_names_of_the_rows() -> None:
    told = [line.rstrip() for line in shown(rates_table(), 46)]
    assert "flip, all      11,776  0.89 [0.76, 1.04]" in told
    assert "flip, all      24.73 [24.25, 25.22]" in told
    assert told.count("flip, by tier") == 2


def test_at_last_each_row_has_lines_of_its_own() -> None:
    told = shown(rates_table(), 32)
    assert told[:4] == ["rates in %", "flip, all", "  faults 11,776", "  SDC-1 0.89 [0.76, 1.04]"]
    assert told[4:6] == ["  outside tolerance 24.73", "    [24.25, 25.22]"]


def test_prose_is_wrapped_between_words_and_a_path_is_never_broken() -> None:
    path = "/a/very/long/path/" + "x" * 60
    table = FittedTable("name", "why", boxed=False)
    table.add_row("ort-cuda", "the NVIDIA driver is not installed (libcuda.so.1 does not load)")
    assert [line.rstrip() for line in shown(table, 40)[2:]] == [
        "ort-cuda  the NVIDIA driver is not",
        "          installed (libcuda.so.1 does",
        "          not load)",
    ]
    table.add_row("op", f"built at {path}")
    assert any(path in line for line in shown(table, 40))
    assert shown(Prose(f"report: {path}"), 40) == ["report:", path]


def test_cells_are_text_and_never_markup() -> None:
    table = FittedTable("name")
    table.add_row("[red]x[/]")
    assert any("[red]x[/]" in line for line in shown(table, 60))
    assert shown(stacked(["a [/b] c"]), 60) == ["a [/b] c"]


def test_an_interval_stays_on_one_line() -> None:
    assert broken("images  (0.25, 0.5] 16 of 61; (0.5, 0.75] 16", 34, 8) == [
        "images  (0.25, 0.5] 16 of 61;",
        "        (0.5, 0.75] 16",
    ]


_values = st.floats(0, 1e6).map(lambda value: f"{value:,.2f}")
_rates = st.tuples(_values, _values, _values).map(lambda three: "{} [{}, {}]".format(*three))
_names = st.text("abcdefgh .-_", max_size=30)


@given(
    rows=st.lists(st.tuples(_names, _values, _rates, _names, _rates, _rates), max_size=6),
    width=st.sampled_from(WIDTHS),
    boxed=st.booleans(),
)
def test_no_width_loses_a_number(rows: list[tuple[str, ...]], width: int, boxed: bool) -> None:
    table = FittedTable(title="rates", boxed=boxed)
    for place, name in enumerate(["what", "n", "SDC-1", "note", "outside tolerance", "nonfinite"]):
        table.add_column(name, justify="right" if place in (1, 2) else "left", no_wrap=place > 3)
    for row in rows:
        table.add_row(*row)
    lines = shown(table, width)
    assert all(len(line) <= width for line in lines)
    wanted = Counter(number for row in rows for cell in row for number in NUMBER.findall(cell))
    assert not wanted - numbers(lines)
