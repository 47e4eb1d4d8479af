"""A report's page as the tests read it: tables of its figures, tags, text, and the numbers that it shows."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed

SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "deep": {"blocks": 12, "headless": (3,)},
    "no weights, one tier": {"weights": False, "attention": False, "tiers": 1},
    "first block without attention": {"headless": (0,), "attention": False},
    "no harm": {"harm": 0.0},
    "attention only": {"model": False},
    "no flips": {"ops": ("stuck1", "random"), "blocks": 1},
    "random words only": {"ops": ("random",), "blocks": 1},
}
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest; keeps the numbers' tables by figure, every tag's attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] | None = None
        self._words: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(attributes.get("data-figure") or "", [])
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self._words.append(data)
        if self._table and self._table[-1] and self.open[-1] in ("td", "th"):
            self._table[-1][-1] += data


def assert_shown(rate: str, interval: str, expected: dict[str, float]) -> None:
    """Printed numbers are the expected ones, rounded to the places printed: two digits or more of the half-width."""
    low, high = interval.strip("[]").split(",\u00a0")
    shown = {"rate": rate.removesuffix("\u202f%"), "low": low, "high": high}
    for name, number in shown.items():
        places = len(number.partition(".")[2])
        if number != "0":
            assert float(number) == pytest.approx(100 * expected[name], abs=0.5001 * 10**-places)
            assert 50 * (expected["high"] - expected["low"]) >= 10**-places
        else:
            assert 100 * expected[name] < 0.5
    assert (shown["rate"] == "0") == (expected["rate"] == 0)


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("report.html")))


def change_summary(run: Path, **values: Any) -> None:
    """A summary with these values, recorded as the summary stage's own."""
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["summary"]["outputs"]["summary.json"] = sha256_file(path)
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))


def worst_articles(report: Path) -> list[dict[str, str]]:
    """Heading, fault id, image id and picture of each shown fault, in order."""
    found, heading = [], ""
    source = report.read_text().partition('<section id="worst">')[2].partition("</section>")[0]
    for title, article in re.findall(r"<h3>([^<]*)</h3>|(<article.*?</article>)", source, re.S):
        heading = title or heading
        if command := re.search(r"testbed fault replay DIR (\d+) --image (\S+?)<", article):
            picture = re.search(r'src="data:image/png;base64,([^"]+)"', article)
            shown = {"heading": heading, "picture": picture[1] if picture else "", "article": article}
            found.append({**shown, "fault": command[1], "image": command[2]})
    return found


def summary_of(report: Path) -> dict[str, Any]:
    return json.loads((report.parent / "summary.json").read_text())
