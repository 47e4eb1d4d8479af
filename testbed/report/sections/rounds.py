"""How an adaptive campaign came to its margin: the widest interval after every round, against faults and against time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from markupsafe import Markup

from testbed.campaign.results.snapshot import margin_of, widest_domain
from testbed.campaign.stop_facts import DomainFacts, GainFacts, RoundFacts, StopFacts
from testbed.report.charts.axis import LogAxis
from testbed.report.charts.curve import Curve, CurvePoint, PlotFrame, Rule, chart
from testbed.report.formatting import MEASURE_NAMES, count, duration, model_name, percent
from testbed.report.read.evidence import Evidence

_WIDTH, _HEIGHT = 430, 210
_GAINS = ("total", "strata", "values", "allocation")


@dataclass(frozen=True)
class Look:
    """What is known after a round. held: half the widest interval of those that hold at all looks together, which the
    stop rule goes by; alone: taken by itself, as if nobody had looked before. widest: the part of the campaign that
    held is of; missing: how many times as wide as was asked for it is."""

    round: int
    faults: int
    seconds: float | None
    held: float
    alone: float
    widest: str
    open: int
    missing: float


@dataclass(frozen=True)
class DomainEnd:
    """A rate that the campaign stopped for. width: half its interval's, relative: as a share of the rate. gains: how many times
    as many uniform faults the design was worth: in all, by strata, by golden values, by the allocation; "" where not known."""

    part: str
    rate: float
    width: float
    relative: float | None
    met: bool
    faults: int
    gains: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    id: str
    title: str
    drawing: Markup


@dataclass(frozen=True)
class Rounds:
    introduction: str
    looks: tuple[Look, ...]
    parts: int
    figures: tuple[Drawing, ...]
    domains: tuple[DomainEnd, ...]
    worth: str


def rounds(evidence: Evidence) -> Rounds | None:
    """None for a campaign that planned all its faults at once."""
    stop = evidence.summary.stop
    if stop is None:
        return None
    looks = tuple(_look(done, stop) for done in stop.history)
    figures = [_figure(looks, [look.faults for look in looks], stop, "faults")]
    seconds = [look.seconds for look in looks if look.seconds is not None]
    if len(seconds) == len(looks) and seconds[0] > 0 and all(a < b for a, b in pairwise(seconds)):
        figures.append(_figure(looks, seconds, stop, "time"))
    introduction = _describe_stop(evidence, stop, looks)
    return Rounds(introduction, looks, len(stop.history[-1].domains), tuple(figures), _ends(stop), design_worth(stop))


def _ends(stop: StopFacts) -> tuple[DomainEnd, ...]:
    domains = stop.history[-1].domains
    gains: list[GainFacts | None] = [*stop.gains] if len(stop.gains) == len(domains) else [None] * len(domains)
    return tuple(
        DomainEnd(
            _domain_name(domain, stop.per),
            domain.rate or 0.0,
            domain.half_width,
            domain.relative_width,
            bool(domain.met),
            domain.faults,
            tuple("" if gain is None or (times := getattr(gain, name)) is None else f"{times:.3g}" for name in _GAINS),
        )
        for domain, gain in zip(domains, gains, strict=True)
    )


def design_worth(stop: StopFacts) -> str:
    """ "worth 7.1 times as many faults drawn uniformly, by variance (strata 2.3, golden values 1.6, allocation 1.9; medians of
    12 rates)"; "" where nothing is known."""
    known = [gain for gain in stop.gains if gain.total is not None]
    if not known:
        return ""
    total, strata, values, allocation = (
        median(times for gain in known if (times := getattr(gain, name)) is not None) for name in _GAINS
    )
    parts = {"strata": strata, "golden values": values, "allocation": allocation}
    due = ", ".join(f"{name} {times:.2g}" for name, times in parts.items() if name != "golden values" or times > 1)
    of = "" if len(known) == 1 else f"; medians of {len(known)} rates"
    return f"worth {total:.2g} times as many faults drawn uniformly, by variance ({due}{of})"


def _look(done: RoundFacts, stop: StopFacts) -> Look:
    widest = max(done.domains, key=lambda domain: domain.half_width / margin_of(domain, stop))
    return Look(
        round=done.round,
        faults=done.faults,
        seconds=done.seconds,
        held=widest.half_width,
        alone=done.widest,
        widest=_domain_name(widest, stop.per),
        open=done.open,
        missing=widest.half_width / margin_of(widest, stop),
    )


def _domain_name(domain: DomainFacts, per: str) -> str:
    """ "activation bit flips, block 3"."""
    op = domain.op if domain.pattern == "single" else f"{domain.op} x {domain.pattern}"
    named = [f"{domain.where} {model_name(op)}"]
    for dimension in per.split(" x ") if per != "all" else ():
        value = domain.value(dimension.strip())
        named.append(f"outside the {dimension}s" if value is None else f"{dimension} {value}")
    return ", ".join(named)


def _describe_stop(evidence: Evidence, stop: StopFacts, looks: Sequence[Look]) -> str:
    confidence = stop.confidence or evidence.summary.confidence
    per = "one rate per fault model" if stop.per == "all" else f"a rate per {stop.per} and fault model"
    asked = f"Asked for: {per} of {MEASURE_NAMES[stop.measure]}, each to ± {_asked(stop)} at {percent(confidence)} confidence."
    return f"{asked} {_outcome(stop).capitalize()}."


def _asked(stop: StopFacts) -> str:
    """ "1 %", or "10 % of the rate or ± 0.05 %, whichever is wider"."""
    if stop.relative is None:
        return percent(stop.margin)
    return f"{percent(stop.relative)} of the rate or ± {percent(stop.margin)}, whichever is wider,"


def stop_verdict(stop: StopFacts | None, confidence: float) -> str | None:
    """Whether an adaptive campaign came to its margin, and the part it knows least of; None for any other campaign."""
    if stop is None:
        return None
    widest = widest_domain(stop.history[-1].domains, stop, confidence)
    return (
        f"{_outcome(stop)}; widest: ±{100 * widest.halfwidth:.2g} points of {MEASURE_NAMES[stop.measure]} at"
        f" {100 * widest.confidence:g} %, asked for ±{100 * (widest.margin or stop.margin):.3g}, {widest.group}"
        f" ({widest.faults:,} faults)"
    )


def _outcome(stop: StopFacts) -> str:
    """ "reached after 5 rounds and 12,345 faults"."""
    rounds, faults = len(stop.history), stop.history[-1].faults
    end = f"reached after {rounds} {'round' if rounds == 1 else 'rounds'} and {count(faults)} faults"
    if stop.met:
        return end
    if (most := stop.max_faults) is not None and faults >= most:
        why = f"max_faults = {most} came first"
    elif stop.max_rounds is not None and rounds >= stop.max_rounds:
        why = f"max_rounds = {stop.max_rounds} came first"
    else:
        why = "there were no more faults to draw"
    return f"not {end}: {why}"


def _figure(looks: Sequence[Look], along: Sequence[float], stop: StopFacts, what: str) -> Drawing:
    """Half-widths, or, where each rate has a margin of its own, half-widths as times the margin."""
    names = ("alone", "held") if stop.relative is None else ("missing",)
    margin = stop.margin if stop.relative is None else 1.0
    widths = [margin, *(getattr(look, name) for look in looks for name in names)]
    label = (lambda n: count(round(n))) if what == "faults" else _short_duration
    frame = PlotFrame(
        LogAxis.holding(along, _WIDTH, label),
        LogAxis.holding(widths, _HEIGHT, lambda width: f"{(100 if stop.relative is None else 1) * width:g}"),
        _WIDTH,
        _HEIGHT,
    )
    curves = [Curve("held" if name == "missing" else name, _points(looks, along, name)) for name in names]
    rule = Rule(f"margin asked for: {_asked(stop)}", "margin", y=margin)
    title = f"Widest half-width against {what}"
    x_name = "faults so far" if what == "faults" else "time since the first round began"
    y_name = "half-width, %" if stop.relative is None else "half-width, times what is asked"
    return Drawing(f"rounds-{what}", title, chart(frame, curves, [rule], x_name, y_name, title))


def _short_duration(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{seconds:g}\u202fs"


def _points(looks: Sequence[Look], along: Sequence[float], width: str) -> list[CurvePoint]:
    return [
        CurvePoint(
            x,
            y,
            y,
            y,
            f"round {look.round + 1}, {count(look.faults)} faults: ± {percent(_width(look, width))}, {look.widest}",
        )
        for look, x in zip(looks, along, strict=True)
        if (y := getattr(look, width)) > 0
    ]


def _width(look: Look, name: str) -> float:
    return look.alone if name == "alone" else look.held
