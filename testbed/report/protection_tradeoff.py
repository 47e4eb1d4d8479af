"""The trade-off of protection on one page: recommendation, figures, tables; nothing is loaded from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from testbed.compare.record import ComparedRate
from testbed.core.words.text import percent_interval, visible_lines
from testbed.protect.tradeoff.record import (
    MeasuredLatency,
    ProtectionTradeoff,
    RemovalAccount,
    SharedRows,
    TradeoffPoint,
)


@dataclass(frozen=True)
class Picture:
    """A PNG in base64, for a light and for a dark page."""

    light: str
    dark: str


def tradeoff_page(weighed: ProtectionTradeoff, overview: Picture, hypothetical: Picture) -> str:
    """The page. overview: overhead against what is left; hypothetical: expected beside real protection."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"added": added_percent, "removed": removed_percent, "interval": _interval}
    template = environment.from_string(_package_file("protection_tradeoff.html.j2"))
    style = Markup(_package_file("style.css"))
    return visible_lines(template.render(w=weighed, overview=overview, hypothetical=hypothetical, style=style))


def added_percent(row: MeasuredLatency) -> str:
    """Latency that was added, in %, with its interval: "+2.9 [2.1, 3.6]"."""
    if row.low is None or row.high is None:
        return f"{100 * (row.ratio - 1):+.1f} (too few rounds for an interval)"
    return f"{100 * (row.ratio - 1):+.1f} [{100 * (row.low - 1):.1f}, {100 * (row.high - 1):.1f}]"


def removed_percent(point: TradeoffPoint | RemovalAccount) -> str:
    """The share that was removed, in %, with its interval; how far below -100 % a bound lies says only that little was seen."""
    removed = point.removed
    if removed is None:
        return ""
    if removed.share is None:
        return "none before"
    low, high = ("< -100" if end is None or end < -1 else f"{100 * end:.1f}" for end in (removed.low, removed.high))
    return f"{100 * removed.share:.1f} [{low}, {high}]"


def _interval(part: ComparedRate | SharedRows) -> str:
    return percent_interval(part.share if isinstance(part, SharedRows) else part.rate, part.low, part.high)


def _package_file(name: str) -> str:
    return (resources.files("testbed.report") / "templates" / name).read_text(encoding="utf-8")
