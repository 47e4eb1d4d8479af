"""Small pieces of HTML for notebooks: a heading, facts, tables. Every text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from testbed.core.words.text import visible

_PAGE_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #8884; white-space: nowrap; }
figure { display: inline-block; margin: 1rem 1rem 1rem 0; background: #fff; }
img { max-width: 100%; }
.wide { overflow-x: auto; }
"""


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


def page(title: str, body: Iterable[str]) -> str:
    """A page of its own, which needs nothing else. body: pieces of HTML."""
    head = f'<meta charset="utf-8"><title>{escaped(title)}</title><style>{_PAGE_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def picture(name: str, content: bytes, mime: str) -> str:
    """A picture inside the page."""
    source = base64.b64encode(content).decode()
    return f'<figure><img alt="{escaped(name)}" src="data:{mime};base64,{source}"></figure>'
