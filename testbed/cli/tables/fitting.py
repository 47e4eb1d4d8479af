"""Tables that fit the terminal they are printed on: columns are put elsewhere, but no number is ever cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

from testbed.cli.tables.prose import Prose, broken, tokens
from testbed.core.words.console import Lines
from testbed.core.words.text import visible

_LEAST_KEY = 30  # characters of a column that says what a row is, and of other prose, before they are wrapped
_LEAST_PROSE = 24
_GAP = 3  # between the figures of a row that is told in lines


@dataclass(frozen=True)
class _Column:
    """A column. right: cells are aligned right. whole: a cell stays on one line, as numbers and their intervals do."""

    name: str
    right: bool
    whole: bool


@dataclass(frozen=True)
class _Row:
    cells: tuple[Text, ...]
    style: StyleType
    begins_section: bool


class FittedTable:
    """A table in the roomiest of four forms that is no wider than the terminal.

    Ruled; without frame; cut into several tables below one another, each beginning with the ``keys`` columns; or each row
    in lines of its own. Cells are a line of text, never markup. Headings and prose are wrapped where they must. Columns aligned
    right, and those with ``no_wrap``, hold numbers: their cells are never wrapped, let alone cut. ``keys``: how many
    columns say what a row is; by default those before the first column of numbers. ``boxed`` false: never ruled.
    """

    def __init__(self, *names: str, title: str | None = None, keys: int | None = None, boxed: bool = True) -> None:
        self.title = title
        self._keys = keys
        self._boxed = boxed
        self._columns = [_Column(name, right=False, whole=False) for name in names]
        self._rows: list[_Row] = []
        self._section = False

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def add_column(self, name: str, justify: str = "left", no_wrap: bool = False) -> None:
        """Adds a column. justify: left or right."""
        self._columns.append(_Column(name, right=justify == "right", whole=no_wrap or justify == "right"))

    def add_row(self, *cells: str | Text, style: StyleType | None = None) -> None:
        """Cells from the left; those that are missing are empty."""
        padded = [*cells, *[""] * (len(self._columns) - len(cells))]
        texts = tuple(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in padded)
        self._rows.append(_Row(texts, style or "", self._section))
        self._section = False

    def add_section(self) -> None:
        """A rule before the next row."""
        self._section = bool(self._rows)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        everything = range(len(self._columns))
        if self.title:
            yield Prose(self.title, style="table.title")
        room = width - _ruling(len(self._columns))
        if self._boxed and sum(self._least(everything)) <= room:
            yield self._table(everything, self._shared_out(everything, room), self._rows)
            return
        needed = self._least(everything)
        gap = next((gap for gap in (2, 1) if _open_width(needed, gap) <= width), 2)
        blocks = self._blocks(width, gap)
        if blocks is None:
            yield from self._in_lines()
            return
        for number, block in enumerate(blocks):
            if number:
                yield Text()
            yield self._table(block, self._shared_out(block, width - gap * (len(block) - 1)), self._told_in(block), gap)

    # ---- widths

    def _widest(self, columns: Iterable[int]) -> list[int]:
        """Characters that each column takes where nothing is wrapped."""
        return [max(cell_len(line) for text in self._texts(c) for line in text.split("\n")) for c in columns]

    def _least(self, columns: Iterable[int]) -> list[int]:
        """Characters that each column needs: its longest cell or, where cells may be wrapped, a good deal of it."""
        return [max(1, self._least_cell(c), *map(cell_len, self._columns[c].name.split())) for c in columns]

    def _least_cell(self, column: int) -> int:
        texts = [row.cells[column].plain for row in self._rows]
        widest = max((cell_len(line) for text in texts for line in text.split("\n")), default=0)
        if self._columns[column].whole:
            return widest
        longest_word = max((cell_len(word) for text in texts for word in tokens(text)), default=0)
        return max(longest_word, min(widest, _LEAST_KEY if column < self._key_columns() else _LEAST_PROSE))

    def _texts(self, column: int) -> list[str]:
        return [self._columns[column].name, *(row.cells[column].plain for row in self._rows)]

    def _shared_out(self, columns: Sequence[int], room: int) -> list[int]:
        """Widths that come to ``room`` at most: what is left over goes to those that lack least, so that most have all."""
        widths, wanted = self._least(columns), self._widest(columns)
        left = room - sum(widths)
        lacking = sorted((n for n in range(len(widths)) if wanted[n] > widths[n]), key=lambda n: wanted[n] - widths[n])
        for position, n in enumerate(lacking):
            more = min(wanted[n] - widths[n], left // (len(lacking) - position))
            widths[n] += more
            left -= more
        return widths

    # ---- forms

    def _blocks(self, width: int, gap: int) -> list[list[int]] | None:
        """Columns of each of the tables below one another; None where not even one column fits beside the keys."""
        keys = list(range(self._key_columns()))
        blocks: list[list[int]] = []
        for column in range(len(keys), len(self._columns)):
            if blocks and _open_width(self._least([*blocks[-1], column]), gap) <= width:
                blocks[-1].append(column)
            elif _open_width(self._least([*keys, column]), gap) <= width:
                blocks.append([*keys, column])
            else:
                return None
        return blocks or None

    def _key_columns(self) -> int:
        if self._keys is not None:
            return self._keys
        numbers = (n for n, column in enumerate(self._columns) if column.whole)
        return max(1, min(next(numbers, 1), len(self._columns) - 1))

    def _told_in(self, block: Sequence[int]) -> list[_Row]:
        """Rows that say something in these columns, and those that are headings of others."""
        keys = self._key_columns()

        def says(row: _Row) -> bool:
            return any(row.cells[c].plain for c in block[keys:]) or not any(cell.plain for cell in row.cells[keys:])

        return [row for row in self._rows if says(row)]

    def _table(
        self, columns: Sequence[int], widths: Sequence[int], rows: Sequence[_Row], gap: int | None = None
    ) -> Table:
        """A table of these columns. gap: blanks between columns; None for a ruled table."""
        if gap is None:
            form = Table()
        else:
            form = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
        for column, width in zip(columns, widths, strict=True):
            heading = self._columns[column]
            form.add_column(
                Lines(heading.name), justify="right" if heading.right else "left", width=width, overflow="fold"
            )
        for row in rows:
            if row.begins_section:
                form.add_section()
            cells = (_wrapped(row.cells[c], width) for c, width in zip(columns, widths, strict=True))
            form.add_row(*cells, style=row.style)
        return form

    def _in_lines(self) -> Iterator[RenderableType]:
        """Each row: what it is, then its figures with their headings, as many to a line as there is room for."""
        keys = self._key_columns()
        for row in self._rows:
            yield Prose(", ".join(cell.plain.strip() for cell in row.cells[:keys] if cell.plain), style="bold")
            named = zip(self._columns[keys:], row.cells[keys:], strict=True)
            figures = [
                " ".join(f"{column.name} {cell.plain}".split()) for column, cell in named if cell.plain and column.name
            ]
            if figures:
                yield _Flow(figures)


@dataclass(frozen=True)
class _Flow:
    """Pieces of text in lines, indented; none is broken that fits a line."""

    chunks: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = ""
        for chunk in self.chunks:
            longer = f"{line}{' ' * _GAP}{chunk}" if line else f"  {chunk}"
            if line and cell_len(longer) > options.max_width:
                yield Prose(line, indent=4)
                longer = f"  {chunk}"
            line = longer
        yield Prose(line, indent=4)


def _ruling(columns: int) -> int:
    """Characters of a ruled table beside its cells."""
    return 3 * columns + 1


def _open_width(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _wrapped(cell: Text, width: int) -> Text:
    lines = cell.plain.split("\n")
    if max(map(cell_len, lines)) <= width:
        return cell
    return Lines("\n".join(part for line in lines for part in broken(line, width)), style=cell.style)
