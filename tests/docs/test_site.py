"""The built site: all its pages, drawn without a network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.html import Page, read_page

FOREIGN = re.compile(r"^(https?:)?//")


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): read_page(path) for path in sorted(site.rglob("*.html"))}


def test_the_pages_of_all_sections_are_there(pages: dict[str, Page]) -> None:
    for section in ("tutorials", "how-to", "concepts", "reference", "developer"):
        assert f"{section}/index.html" in pages
    assert {"index.html", "results.html", "glossary.html", "changelog.html"} <= set(pages)


def test_no_page_fetches_anything_from_another_host(pages: dict[str, Page]) -> None:
    assert sum(len(page.resources) for page in pages.values()) > len(pages)
    foreign = [
        (name, *resource) for name, page in pages.items() for resource in page.resources if FOREIGN.match(resource[1])
    ]
    assert foreign == []


def test_no_style_sheet_fetches_anything_from_another_host(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet


def test_all_that_a_page_fetches_is_there(site: Path, pages: dict[str, Page]) -> None:
    missing = [
        (name, address)
        for name, page in pages.items()
        for tag, address in page.resources
        if not address.startswith(("data:", "/")) and not _target(site, name, address).exists()
    ]
    assert missing == []


def test_formulas_need_no_script(pages: dict[str, Page]) -> None:
    assert sum(page.formulas for page in pages.values()) > 0


def _target(site: Path, page: str, address: str) -> Path:
    return (site / page).parent / re.sub(r"[?#].*", "", address)
