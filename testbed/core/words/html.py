"""Small pieces of HTML for notebooks: a heading, facts, tables. Every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from testbed.core.words.text import visible


def heading(text: str) -> str:
    """A heading of a result."""
    return f"<p><strong>{escaped(text)}</strong></p>"


def facts(values: Mapping[str, object]) -> str:
    """A table of two columns: name and value."""
    return table((), [(name, value) for name, value in values.items()])


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first cell of each row says what the row is."""
    head = "".join(f"<th>{escaped(name)}</th>" for name in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escaped(text)}</p>"


def escaped(value: object) -> str:
    """Text of any origin, in which nothing is taken for markup."""
    return html.escape(visible(str(value)))
