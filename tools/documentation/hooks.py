"""MkDocs hooks: generated pages, and formulas as MathML, which browsers draw without a script."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

_TOOLS = str(Path(__file__).resolve().parents[1])
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?P<open>\\\(|\\\[)(?P<formula>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    sys.path[:0] = [_TOOLS] if _TOOLS not in sys.path else []
    from documentation.pages import pages

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Replace TeX by MathML."""
    return _FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    formula = found["formula"]
    for entity, character in _ENTITIES:
        formula = formula.replace(entity, character)
    return convert(formula, display="block" if found["open"] == "\\[" else "inline")
