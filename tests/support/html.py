"""What the tests read of a built HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Page:
    """anchors: every id. rows: id of an anchor in a table -> texts of the cells of its row. resources: (tag, address) of what
    a browser fetches by itself. formulas: MathML elements."""

    anchors: set[str] = field(default_factory=set)
    rows: dict[str, list[str]] = field(default_factory=dict)
    resources: list[tuple[str, str]] = field(default_factory=list)
    formulas: int = 0


def read_page(path: Path) -> Page:
    """The page in a file."""
    reader = _Reader()
    reader.feed(path.read_text())
    return reader.page


_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "video": "src"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._cells: list[str] = []
        self._anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if anchor := values.get("id"):
            self.page.anchors.add(anchor)
            self._anchors.append(anchor)
        if address := values.get(_FETCHED.get(tag, "")):
            self.page.resources.append((tag, address))
        self.page.formulas += tag == "math"
        if tag == "tr":
            self._cells, self._anchors = [], []
        elif tag in ("td", "th"):
            self._cells.append("")

    def handle_data(self, data: str) -> None:
        if self._cells:
            self._cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.page.rows |= {anchor: [cell.strip() for cell in self._cells] for anchor in self._anchors}
            self._cells = []
