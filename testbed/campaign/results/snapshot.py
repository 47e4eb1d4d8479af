"""How far a campaign is, as it is told: to who watches, and in ``status.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from testbed.campaign.spec.stop import dimensions
from testbed.campaign.stop_facts import DomainFacts


@dataclass(frozen=True)
class RateWidth:
    """How well an adaptive campaign knows one of the rates that it stops for. halfwidth: of its interval at the last look, as a
    share of 1; relative: the same as a share of the rate, None of a rate of 0; margin: what was asked for; met: whether it
    needs no more faults."""

    group: str
    faults: int
    halfwidth: float
    relative: float | None
    margin: float
    met: bool


@dataclass(frozen=True)
class Widest:
    """The group of faults whose rate is known least. halfwidth: of its interval, as a share of 1; rates: all that an adaptive
    campaign stops for, this one among them.

    In an adaptive campaign it is what the stop rule goes by after the completed rounds, and ``margin`` is what was asked
    for; where margins are relative, the group tells the width as a share of the rate. Otherwise an estimate for watching
    only: faults are counted alike, whatever their stratum, and all rows of a fault as one.
    """

    group: str
    faults: int
    halfwidth: float
    confidence: float = 0.95
    margin: float | None = None
    rates: tuple[RateWidth, ...] = ()


@dataclass(frozen=True)
class Steps:
    """Work of a stage that runs no faults. what: is counted, such as "images"; per_second: over the last minute."""

    what: str
    total: int
    done: int
    per_second: float | None
    eta_s: float | None


@dataclass(frozen=True)
class Snapshot:
    """``faults_per_second`` over the last minute. updated: ISO 8601, UTC. ``steps``: of a stage before the faults."""

    stage: str
    units: int
    units_done: int
    faults: int
    faults_done: int
    faults_per_second: float | None
    eta_s: float | None
    outcomes: Mapping[str, int]
    widest: Widest | None
    workers: int
    updated: str
    steps: Steps | None = None


@dataclass(frozen=True)
class RecordedSnapshot:
    """A `Snapshot` as ``status.json`` has it: None, or no outcomes, for what is missing or absurd there."""

    stage: str | None = None
    units: int | None = None
    units_done: int | None = None
    faults: int | None = None
    faults_done: int | None = None
    faults_per_second: float | None = None
    eta_s: float | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    widest: Widest | None = None
    workers: int | None = None
    updated: str | None = None
    steps: Steps | None = None


class Stop(Protocol):
    """The [stop] table of an adaptive campaign, of its spec or of its manifest."""

    @property
    def per(self) -> str: ...

    @property
    def margin(self) -> float: ...

    @property
    def relative(self) -> float | None: ...

    @property
    def confidence(self) -> float | None: ...


def widest_domain(domains: Sequence[DomainFacts], stop: Stop, confidence: float) -> Widest:
    """The domain of an adaptive campaign that is widest for what is asked of it. domains: as the history of its rounds tells
    them."""
    worst = max(domains, key=lambda domain: domain.half_width / margin_of(domain, stop))
    group = _group(worst, stop)
    if stop.relative is not None and worst.relative_width is not None:
        group = f"{group}, ±{100 * worst.relative_width:.2g} % of its rate"
    return Widest(
        group,
        worst.faults,
        round(worst.half_width, 6),
        stop.confidence or confidence,
        round(margin_of(worst, stop), 9),
        tuple(
            RateWidth(
                _group(domain, stop),
                domain.faults,
                round(domain.half_width, 6),
                None if domain.relative_width is None else round(domain.relative_width, 6),
                round(margin_of(domain, stop), 9),
                bool(domain.met),
            )
            for domain in domains
        ),
    )


def _group(domain: DomainFacts, stop: Stop) -> str:
    """Name a domain by what it is of: "model activation, flip, block 3"."""
    parts = [f"{domain.target} {domain.where}", domain.op]
    for dimension in dimensions(stop.per):
        value = domain.value(dimension)
        parts.append(f"outside the {dimension}s" if value is None else f"{dimension} {value}")
    return ", ".join(parts)


def margin_of(domain: DomainFacts, stop: Stop) -> float:
    """Half the width that a domain's interval may have: the wider of the absolute margin and the relative one."""
    return max(stop.margin, (stop.relative or 0.0) * (domain.rate or 0.0))
