"""MkDocs hooks: generated pages, and formulas as MathML, which browsers draw without a script."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parents[2]
_TOOLS = str(_ROOT / "tools")
_PICTURES = {"digits.png": _ROOT / "golden" / "digits" / "figure.png"}
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?P<open>\\\(|\\\[)(?P<formula>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and pictures that lie elsewhere in the repository."""
    sys.path[:0] = [_TOOLS] if _TOOLS not in sys.path else []
    from documentation.pages import pages

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    for name, picture in _PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Replace TeX by MathML."""
    return _FORMULA.sub(_mathml, html)


def _mathml(found: re.Match[str]) -> str:
    formula = found["formula"]
    for entity, character in _ENTITIES:
        formula = formula.replace(entity, character)
    return convert(formula, display="block" if found["open"] == "\\[" else "inline")
