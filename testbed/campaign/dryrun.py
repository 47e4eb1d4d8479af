"""What a campaign would do: its strata, how wide the intervals would be, how long it would take. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from testbed.analysis.stats import wilson
from testbed.campaign.sections import Sampled, sampled_strata
from testbed.campaign.spec import CampaignSpec, FaultSpec
from testbed.campaign.subject import Subject
from testbed.campaign.subjects import subject_of
from testbed.core.errors import UsageError
from testbed.core.files import sha256_bytes
from testbed.core.site import SiteTable
from testbed.engines.runner import EngineRequest, open_engine
from testbed.instrument.feed import PortFeed
from testbed.instrument.ports import instrument
from testbed.instrument.shapes import input_name

_TIMED_BATCHES = 5


def dry_run_plan(spec: CampaignSpec) -> dict[str, Any]:
    """The plan in numbers, per [[faults]] section. Sites come from an untrained model of the same architecture.

    Raises UsageError for anything the spec names that does not exist, and for campaigns that are not planned at once.
    """
    if spec.stop is not None:
        raise UsageError(
            "[stop] decides how many faults are run as it goes; see what it starts from: testbed campaign plan"
        )
    subject = subject_of(spec)
    subject.check_sites()
    images = sum(spec.tiers.images)
    tier_images = [[f"{tier}/{n}" for n in range(count)] for tier, count in enumerate(spec.tiers.images)]
    sections = []
    measured = {target: sites_and_speed(spec, subject, target) for target in spec.targets}
    tables = {target: table for target, (table, _) in measured.items()}
    sampled = _by_section(spec, tables, tier_images)
    for target, (table, seconds) in measured.items():
        for section, own in zip(spec.faults, sampled, strict=True):
            if section.target == target:
                sections.append(_section(spec, section, table, own, images, seconds))
    return {
        "name": spec.name,
        "faults": sum(s["faults"] for s in sections),
        "rows": sum(s["rows"] for s in sections),
        "images": images,
        "training_epochs": subject.training_epochs,
        "confidence": spec.confidence,
        "sections": sections,
        "estimated_seconds": round(sum(s["estimated_seconds"] for s in sections), 1),
    }


def sites_and_speed(spec: CampaignSpec, subject: Subject, target: str) -> tuple[SiteTable, float]:
    """The target's sites, and engine seconds per batch of its fault-free twin here and now."""
    engine = spec.engine
    plain, batch = subject.sketch(target)
    table = subject.site_table(plain, target)
    twin = instrument(plain, table).SerializeToString()
    request = EngineRequest(
        twin,
        sha256_bytes(twin),
        table.deployment_id,
        precision=engine.precision,
        threads=engine.sketched_threads,
        max_batch=engine.sketched_batch,
    )
    feeds = {input_name(twin): batch, **PortFeed.idle(len(batch)).as_inputs(table)}
    with open_engine(spec.engine.backend, request) as runner:
        runner.run(feeds)
        start = time.perf_counter()
        for _ in range(_TIMED_BATCHES):
            runner.run(feeds)
        return table, (time.perf_counter() - start) / _TIMED_BATCHES


@dataclass
class _Sums:
    """Of the strata of one section. sampled: faults per (fault model, display cell's name)."""

    sampled: Counter[tuple[str, str]] = field(default_factory=Counter)
    population: int = 0
    per_stratum: list[int] = field(default_factory=list)

    def add(self, one: Sampled, section: FaultSpec) -> None:
        stratum = one.stratum
        model = section.label(stratum.op)
        for cell in ("all", f"site {stratum.site.name}", f"bit class {stratum.site.format.bit_class(stratum.bit)}"):
            self.sampled[(model, cell)] += one.drawn
        self.population += stratum.population
        self.per_stratum.append(one.drawn)


def _by_section(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]
) -> list[_Sums]:
    """A stratum that several sections name is one of the section that asks for most of it."""
    sums = [_Sums() for _ in spec.faults]
    for one in sampled_strata(spec.faults, tables, tier_images):
        sums[one.section].add(one, spec.faults[one.section])
    return sums


def _section(
    spec: CampaignSpec, section: FaultSpec, table: SiteTable, own: _Sums, images: int, seconds_per_batch: float
) -> dict[str, Any]:
    faults = sum(own.per_stratum)
    rows = faults * (images if section.persistent else 1)
    size = spec.engine.sketched_batch
    batches = faults * -(-images // size) if section.where == "weight" else -(-rows // size)
    return {
        "target": section.target,
        "where": section.where,
        "ops": list(section.ops),
        "pattern": section.pattern_name("flip"),
        "scope": "persistent" if section.persistent else "inference",
        "sites": len(table.select(section.where, section.sites)),
        "strata": len(own.per_stratum),
        "faults_per_stratum": {"least": min(own.per_stratum, default=0), "most": max(own.per_stratum, default=0)},
        "population": own.population,
        "faults": faults,
        "rows": rows,
        "half_width": _half_widths(own.sampled, spec.confidence),
        "estimated_seconds": round(batches * seconds_per_batch, 1),
    }


def _half_widths(sampled: Counter[tuple[str, str]], confidence: float) -> dict[str, dict[str, float]]:
    """Per fault model: half the width of the interval of a rate of one half (the widest), over everything, over the
    smallest site and over the smallest bit class. Faults count as independent; images of one fault add nothing."""
    widths: dict[str, dict[str, float]] = {}
    for model in dict.fromkeys(model for model, _ in sampled):
        smallest = {
            "all": sampled[(model, "all")],
            "site": min(n for (of, cell), n in sampled.items() if of == model and cell.startswith("site ")),
            "bit_class": min(n for (of, cell), n in sampled.items() if of == model and cell.startswith("bit class ")),
        }
        widths[model] = {}
        for cell, n in smallest.items():
            low, high = wilson(n / 2, n, confidence)
            widths[model][cell] = float(high - low) / 2
    return widths
