"""The strata of all [[faults]] sections together: each once, whoever names it.

Sections may overlap: every tensor once, and the softmax a hundred times more. A stratum (site x operation x bit x tier, of
one pattern) that several sections name is one stratum with one population. It is drawn from as often as the section asks
that wants most of it, and belongs to that one; since its draws are numbered and seeded by its name, those are the same
faults, and more of them. What several sections would count in populations of different make is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from testbed.campaign.plan.draw import Stratum, bits_of, strata
from testbed.campaign.spec.faults import FaultSpec
from testbed.core.errors import UsageError
from testbed.core.fault import Op
from testbed.core.site import Site, SiteTable


class Sampled(NamedTuple):
    """A stratum with how many of its faults are asked for. section: number of the one it belongs to; wanted: faults
    that this one asks for."""

    section: int
    stratum: Stratum
    wanted: int

    @property
    def drawn(self) -> int:
        return self.stratum.drawn_of(self.wanted)


def sampled_strata(
    sections: Sequence[FaultSpec], tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]
) -> Iterator[Sampled]:
    """Strata in the order of the plan: section by section, each in a fixed order. tier_images: image ids per tier.

    Raises UsageError for a tensor that has no room for a section's pattern, and for sections that cannot be told apart.
    """
    overlaps = _Overlaps(sections, tables)
    for number, section in enumerate(sections):
        for stratum in strata(section, tables[section.target], tier_images):
            if overlaps.owner(number, stratum.site, stratum.op, stratum.bit) == number:
                yield Sampled(number, stratum, section.per_stratum)


def check_sections(sections: Sequence[FaultSpec], tables: Mapping[str, SiteTable]) -> None:
    """Raises UsageError for sections that name no site, or cannot be told apart, before there are images."""
    overlaps = _Overlaps(sections, tables)
    for number, section in enumerate(sections):
        chosen = tables[section.target].select(section.where, section.sites)
        for op in section.ops:
            if overlaps.rivals(number, op):
                for site in chosen:
                    for bit in bits_of(section, site, op):
                        overlaps.owner(number, site, op, bit)


def bits_named(
    sections: Sequence[FaultSpec], table: SiteTable, site: Site, op: Op, pattern: str, persistent: bool
) -> frozenset[int]:
    """Which bits of a site's words any section of one fault model strikes."""
    bits: set[int] = set()
    for section in sections:
        same_model = (section.target, section.where, section.persistent) == (table.target, site.where, persistent)
        if not same_model or op not in section.ops or section.pattern_name(op) != pattern:
            continue
        if any(other.name == site.name for other in table.select(section.where, section.sites)):
            bits |= set(range(site.format.bits) if section.bits == "all" else section.bits)
    return frozenset(bits)


class _Overlaps:
    def __init__(self, sections: Sequence[FaultSpec], tables: Mapping[str, SiteTable]) -> None:
        self.sections, self.tables = sections, tables
        self._rivals: dict[tuple[int, str], tuple[int, ...]] = {}
        self._sites: dict[int, frozenset[str]] = {}

    def rivals(self, number: int, op: Op) -> tuple[int, ...]:
        """All sections with faults of the same model, this one among them; empty where it is alone."""
        if (number, op) not in self._rivals:
            model = _model(self.sections[number], op)
            alike = tuple(n for n, other in enumerate(self.sections) if op in other.ops and _model(other, op) == model)
            self._rivals[number, op] = alike if len(alike) > 1 else ()
        return self._rivals[number, op]

    def owner(self, number: int, site: Site, op: Op, bit: int | None) -> int:
        """Which section the stratum of section ``number`` belongs to: the first of those that ask for most of it."""
        sharing = [n for n in self.rivals(number, op) if n == number or self._names(n, number, site, op, bit)]
        return max(sharing, key=lambda n: self.sections[n].per_stratum, default=number)

    def _names(self, other: int, number: int, site: Site, op: Op, bit: int | None) -> bool:
        """Whether section ``other`` has the stratum too."""
        section = self.sections[other]
        if other not in self._sites:
            table = self.tables[section.target]
            self._sites[other] = frozenset(member.name for member in table.select(section.where, section.sites))
        if site.name not in self._sites[other] or bit not in bits_of(section, site, op):
            return False
        if bit is None and op != "random" and section.bits != self.sections[number].bits:
            first, second = sorted((other, number))
            raise UsageError(
                f"faults[{second}] strikes {site.name} with {op!r} and pattern {section.pattern_name(op)!r} as"
                f" faults[{first}] does, but chooses among other bits: faults of both would be counted in two populations;"
                " name the same bits, other sites, or run it as a campaign of its own"
            )
        return True


def _model(section: FaultSpec, op: Op) -> tuple[object, ...]:
    """What no rate mixes."""
    return section.target, section.where, section.pattern_name(op), section.persistent
