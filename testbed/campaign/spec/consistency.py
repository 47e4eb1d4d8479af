"""What the tables of a spec ask of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from testbed.campaign.spec.faults import FaultSpec
from testbed.campaign.spec.fields import Complaint
from testbed.campaign.spec.stop import StopSpec
from testbed.core.formats import format_named
from testbed.instrument.ports.feed import OP

if TYPE_CHECKING:
    from testbed.campaign.spec.protect import ProtectSpec
    from testbed.campaign.spec.sources import DataSpec, ModelSpec
    from testbed.campaign.spec.tables import AttentionSpec, EngineSpec, ProtectionSpec, TierSpec, ToleranceSpec


@dataclass(frozen=True)
class Tables:
    """None: not stated, or wrong by itself, which was told already. ``faults``: the sections that are right, by number.
    ``names_data``: whether [data] names a data set."""

    model: ModelSpec | None
    data: DataSpec | None
    tiers: TierSpec | None
    engine: EngineSpec | None
    tolerance: ToleranceSpec | None
    protection: ProtectionSpec | None
    stop: StopSpec | None
    protect: ProtectSpec | None
    attention: AttentionSpec | None
    faults: Mapping[int, FaultSpec]
    names_data: bool


def contradictions(tables: Tables) -> Iterator[Complaint]:
    model, engine, sections = tables.model, tables.engine, tables.faults
    if model is not None and model.run is None and not tables.names_data:
        yield Complaint("data.name", 'missing; name a data set, for example [data] name = "digits"')
    if tables.tolerance is not None and tables.tiers is not None:
        atol, edges = tables.tolerance.atol, tables.tiers.edges
        if isinstance(atol, tuple) and len(atol) != len(edges):
            yield Complaint("tolerance.atol", f"names {len(atol)} tiers, tiers.edges {len(edges)}")
    for number, section in sections.items():
        if engine is not None:
            yield from _on_engine(f"faults[{number}]", section, engine)
    block = None if tables.attention is None else tables.attention.block
    if block is not None and sections and all(section.target != "attention" for section in sections.values()):
        yield Complaint("attention.block", 'is of target = "attention", which no section has; leave it out')
    yield from _mixed(sections)
    yield from _other_images(sections, usual_images(tables.stop))
    if tables.stop is not None:
        yield from tables.stop.complaints(sections)
        no_guess = (model is not None and model.onnx is not None) or (engine is not None and engine.precision == "int8")
        if tables.stop.proxy != "none" and no_guess:
            yield Complaint("stop.proxy", "guesses need a model of the testbed, in floating point; leave it out")
    if tables.protect is not None:
        yield from _of_protect(tables.protect, tables)


def _of_protect(protect: ProtectSpec, tables: Tables) -> Iterator[Complaint]:
    for number, section in tables.faults.items():
        if section.target != "model":
            yield Complaint(
                f"faults[{number}].target",
                f"{section.target!r} is a part of the model, and [protect] protects the whole; strike 'model', with sites such"
                " as block.0.attn.*, or leave [protect] out",
            )
    if tables.model is not None and tables.model.onnx is not None and protect.budget is not None:
        yield Complaint("protect.budget", "places in a file of others are not weighed; name them (protect.where)")
    if tables.stop is not None and tables.stop.proxy != "none":
        yield Complaint("stop.proxy", "guesses are of the plain model, without its checks; leave it out, or [protect]")
    policy = "none" if tables.protection is None else tables.protection.on_detected
    if policy != "none" and not protect.raises_alarms:
        yield Complaint(
            "protection.on_detected",
            f"{policy!r} says what follows an alarm, and no pass of protect.with raises any; add one that detects, or leave it"
            " out",
        )


def _on_engine(key: str, section: FaultSpec, engine: EngineSpec) -> Iterator[Complaint]:
    if section.pattern == "sites" and section.where == "activation" and engine.ports != OP:
        yield Complaint(
            f"{key}.pattern",
            f"'sites' strikes {section.count} activations in one inference, of which the later see what the earlier"
            f" changed; only ports of live values can: set engine.ports = {OP!r}",
        )
    width = format_named(engine.precision).bits
    if section.bits != "all" and max(section.bits) >= width:
        yield Complaint(f"{key}.bits", f"{engine.precision} has bits 0 to {width - 1}, not {max(section.bits)}")


def usual_images(stop: StopSpec | None) -> Literal["auto", "all"]:
    """Images that persistent faults are run on unless their section says."""
    return "all" if stop is None or stop.relative is None else "auto"


def _other_images(sections: Mapping[int, FaultSpec], usual: str) -> Iterator[Complaint]:
    """Sections of one place that ask for other numbers of images: a mean over rows would weigh their faults differently, and
    their engine has one batch."""
    first: dict[tuple[str, str], int] = {}
    for number, section in sections.items():
        if section.persistent:
            other = first.setdefault((section.target, section.where), number)
            if (section.images or usual) != (sections[other].images or usual):
                yield Complaint(
                    f"faults[{number}].images",
                    f"persistent faults in {section.where}s of {section.target!r} are all run on as many images; set it as in"
                    f" faults[{other}]",
                )


def _mixed(sections: Mapping[int, FaultSpec]) -> Iterator[Complaint]:
    """Sections whose faults at several sites would be told as one fault model, though they choose among others."""
    several = {number: section for number, section in sections.items() if section.pattern == "sites"}
    for (first, section), (second, other) in combinations(several.items(), 2):
        both = [op for op in section.ops if op in other.ops]
        alike = all(getattr(section, key) == getattr(other, key) for key in ("target", "where", "count", "persistent"))
        if both and alike and (section.sites, section.bits) != (other.sites, other.bits):
            yield Complaint(
                f"faults[{second}]",
                f"chooses {other.count} among other sites or bits than faults[{first}], with {both[0]!r} too: faults of both"
                " would be counted in two populations; name the same sites and bits, or run it as a campaign of its own",
            )
