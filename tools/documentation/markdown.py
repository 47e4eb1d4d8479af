"""Markdown of the generated pages: tables, prose that is no markup, anchors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`+[^`]+`+)")
_MARKUP = re.compile(r"[&*_<>\[\]|#~\\]")
_ITEM = re.compile(r"^- (.*)", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown on one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("\n", " ") for cell in line) + " |" for line in lines) + "\n"


def code(text: str) -> str:
    """A span of code that may stand in a table."""
    return f"<code>{_plain(text)}</code>" if "|" in text or "`" in text else f"`{text}`"


def anchored(text: str, anchor: str) -> str:
    """A span of code that links can name."""
    return f'<a id="{anchor}"></a><code>{_plain(text)}</code>'


def prose(text: str) -> str:
    """Plain text whose only markup is code in backticks."""
    parts = _CODE.split(text)
    return "".join(code(part.strip("`")) if number % 2 else _plain(part) for number, part in enumerate(parts))


def cell(text: str) -> str:
    """Text of one or more paragraphs and a list, for a table."""
    paragraphs = [
        _list(part) if part.startswith("- ") else prose(" ".join(part.split())) for part in text.split("\n\n")
    ]
    return "<br>".join(paragraphs).replace("<br><ul>", "<ul>")


def _list(text: str) -> str:
    return "<ul>" + "".join(f"<li>{prose(item)}</li>" for item in _ITEM.findall(text)) + "</ul>"


def _plain(text: str) -> str:
    """Text in which no character is markup, in Markdown, in a table and in HTML."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", text)
