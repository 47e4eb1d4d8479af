"""What holds of every page that is written by hand, and of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCES = {
    "sh",
    "python",
    "console",
    "py",
    "text",
    "toml",
    "yaml",
    "html",
    "diff",
}  # see docs/developer/documentation.md
README_LINES = 130

_FENCE = re.compile(r"^ *```(\w*)(.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]+)?\)")
_TERM = re.compile(r"^\*\*.*\{#([\w-]+)\}$", re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_language_of_a_block_says_whether_it_can_be_run(page: Path) -> None:
    opened = _FENCE.findall(text_of(page))[::2]

    assert [language for language, _ in opened if language not in FENCES] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    generated = DOCS / "reference"  # as are the two files named below; the strict build checks these
    missing = [
        target
        for target, _ in _LINK.findall(without_code(text_of(page)))
        if not (path := (page.parent / target).resolve()).exists()
        and generated not in path.parents
        and path not in (DOCS / "changelog.md", DOCS / "digits.png")
    ]

    assert missing == []


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent.name in ("tutorials", "how-to", "concepts")], ids=lambda page: page.name
)
def test_a_page_begins_with_what_it_is_for(page: Path) -> None:
    title, blank, first, *_ = text_of(page).splitlines()

    assert title.startswith("# ")
    assert blank == ""
    assert first[:1].isalpha()


def test_a_shell_block_that_is_only_shown_has_prompts_and_one_to_run_has_none() -> None:
    wrong = []
    for page in PAGES:
        for language, code in re.findall(r"^```(sh|console)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
            prompts = [line.startswith(("$ ", ">>> ")) for line in code.splitlines()]
            if any(prompts) if language == "sh" else not all(prompts):
                wrong.append((page.name, code))

    assert wrong == []


def test_a_term_of_the_glossary_is_defined_once() -> None:
    terms = _TERM.findall(text_of(DOCS / "glossary.md"))

    assert len(terms) > 100
    assert len(terms) == len(set(terms))


def test_links_to_the_glossary_name_one_of_its_terms() -> None:
    terms = set(_TERM.findall(text_of(DOCS / "glossary.md")))
    asked = {
        (page.name, anchor)
        for page in PAGES
        for anchor in re.findall(r"glossary\.md#([\w-]+)", without_code(text_of(page)))
    }

    assert {(page, anchor) for page, anchor in asked if anchor not in terms} == set()


def test_the_readme_is_an_index() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = text_of(page)
    named = re.findall(r"(?<![\w/.])((?:tests|tools|testbed|campaigns|kernels|golden)/[\w./-]*[\w/])", text)
    to_be_written = set(re.findall(r'^```\w+ title="([^"]+)"', text, re.MULTILINE))  # by the reader of a guide

    assert [path for path in named if not (ROOT / path).exists() and path not in to_be_written] == []
