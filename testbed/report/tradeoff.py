"""The trade-off on one page: table, picture, recommendation; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from testbed.bench.figure import tradeoff_figure, tradeoff_png
from testbed.bench.tradeoff import Tradeoff
from testbed.core.folder.files import write_text
from testbed.core.json_types import json_ready
from testbed.core.words.text import visible_lines


def write_tradeoff(folder: Path, comparison: Tradeoff) -> None:
    """Write metrics.json, tradeoff.png and tradeoff.html."""
    content = json.dumps(json_ready(comparison), indent=1, allow_nan=False)
    write_text(folder / "metrics.json", content + "\n")
    tradeoff_figure(folder / "tradeoff.png", comparison)
    write_page(folder / "tradeoff.html", comparison)


def write_page(path: Path, comparison: Tradeoff) -> None:
    """The picture is there twice, for a light and for a dark page."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_package_file("tradeoff.html.j2"))
    light, dark = (base64.b64encode(tradeoff_png(comparison, dark)).decode() for dark in (False, True))
    page = template.render(comparison=comparison, light=light, dark=dark, style=Markup(_package_file("style.css")))
    write_text(path, visible_lines(page))


def _package_file(name: str) -> str:
    return (resources.files("testbed.report") / "templates" / name).read_text(encoding="utf-8")
