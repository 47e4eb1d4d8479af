"""A trade-off of protection as files: the whole record, its tables, its figures, and one page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.core.folder.figures import FigureFormat
from testbed.core.folder.files import write_bytes, write_text
from testbed.core.json_types import json_ready
from testbed.protect.tradeoff.record import ProtectionTradeoff
from testbed.publish.tradeoff_figures import FIGURES, tradeoff_figure_bytes
from testbed.report.protection_tradeoff import Picture, tradeoff_page

PAGE = "tradeoff.html"
_FORMS: tuple[FigureFormat, ...] = ("svg", "png")
_FAULT_MODEL = ["target", "where", "op", "event"]


def write_weighed(weighed: ProtectionTradeoff, to: Path) -> list[Path]:
    """Write the trade-off in the folder ``to``, made where it is missing; the paths that were written.

    ``tradeoff.json``: all of it. ``latency.csv``: a row per model and batch size; ``points.csv``, ``removals.csv``: a row per
    record; ``curves.csv``: a row per step. ``tradeoff`` and ``hypothetical``: figures, as SVG and PNG;
    ``tradeoff.html``: the page.
    """
    contents: dict[str, str | bytes] = {
        "tradeoff.json": json.dumps(json_ready(weighed.to_json()), indent=1, allow_nan=False) + "\n",
        **{f"{name}.csv": table.to_csv(index=False) for name, table in tradeoff_tables(weighed).items()},
        **{f"{name}.{form}": tradeoff_figure_bytes(weighed, name, form) for name in FIGURES for form in _FORMS},
        PAGE: tradeoff_page(weighed, *(_picture(weighed, name) for name in FIGURES)),
    }
    to.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if isinstance(content, bytes):
            write_bytes(to / name, content)
        else:
            write_text(to / name, content)
    return [to / name for name in contents]


def tradeoff_tables(weighed: ProtectionTradeoff) -> dict[str, pd.DataFrame]:
    """Tables by name, in which a value inside another is named by both: "left.rate"."""
    return {
        "latency": pd.DataFrame(_latency_rows(weighed)),
        "points": pd.json_normalize([point.to_json() for point in weighed.points]),
        "removals": pd.json_normalize([account.to_json() for account in weighed.removals]),
        "curves": pd.DataFrame(_curve_rows(weighed)),
    }


def _latency_rows(weighed: ProtectionTradeoff) -> list[dict[str, Any]]:
    names = ("name", "folder", "deployment_id", "engine_hash", "macs", "macs_added_percent", "operations_added_percent")
    rows = []
    for model in (weighed.plain, *weighed.models):
        of_model = {name: getattr(model, name) for name in names} | {"passes": " ".join(model.passes)}
        rows += [of_model | row.model_dump(exclude={"latency_ms"}) for row in model.latency]
    return rows


def _curve_rows(weighed: ProtectionTradeoff) -> list[dict[str, Any]]:
    rows = []
    for curve in weighed.curves:
        of_curve = {name: getattr(curve, name) for name in [*_FAULT_MODEL, "cost"]} | {"passes": " ".join(curve.passes)}
        for choice, steps in (("greedy", curve.greedy), ("exact", curve.exact)):
            rows += [of_curve | {"choice": choice} | step.to_json() for step in steps]
    return rows


def _picture(weighed: ProtectionTradeoff, name: str) -> Picture:
    light, dark = (
        base64.b64encode(tradeoff_figure_bytes(weighed, name, "png", is_dark)).decode() for is_dark in (False, True)
    )
    return Picture(light, dark)
