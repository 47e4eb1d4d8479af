"""What a campaign would do: its strata, how wide the intervals would be, how long it would take. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from testbed.analysis.stats import wilson
from testbed.campaign.folder.claim import claimed
from testbed.campaign.plan.sections import Sampled, sampled_strata
from testbed.campaign.prepare.subject import PreviewSubject
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.preview.foreseen import bytes_needed, check_disk, foreseen
from testbed.campaign.preview.gates import gate_rows
from testbed.campaign.preview.records import ASSUMED_IMAGES, DryRunReport, FaultsPerStratum, HalfWidths, SectionPreview
from testbed.campaign.spec.campaign import CampaignSpec, FaultSpec
from testbed.core.errors import UsageError
from testbed.core.site import SiteTable
from testbed.engines.backends import require_engine
from testbed.engines.runner import EngineRequest, open_engine
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.shapes import input_name

_TIMED_BATCHES = 5


def dry_run_plan(
    spec: CampaignSpec, folder: Path | None = None, *, fresh: bool = False, subject: PreviewSubject | None = None
) -> DryRunReport:
    """The plan in numbers, per [[faults]] section; of the plain model alone where the spec protects it afterwards. Sites come
    from an untrained model of the same architecture.

    folder: where the campaign would be run, with or without ``fresh``; subject: the spec's, unless stated. Where the model's
    golden is known, its accuracy and tiers are looked at as the run does; what only the run can tell is named
    ("unchecked").

    Raises UsageError for anything the spec names that does not exist, for campaigns that are not planned at once, and
    whatever else the run would refuse; TestbedError where the disk is too small.
    """
    asked, spec = spec.plain, spec.plain.with_images(dict.fromkeys(spec.auto_places, ASSUMED_IMAGES))
    if spec.stop is not None:
        raise UsageError(
            "[stop] decides how many faults are run as it goes; see what it starts from: testbed campaign plan"
        )
    held = None if folder is None else claimed(folder, asked, fresh=fresh)
    require_engine(spec.engine.backend)
    subject = subject or subject_of(spec, held)
    subject.check_sites()
    known = subject.known()
    sections: list[SectionPreview] = []
    measured = {target: sites_and_speed(spec, subject, target) for target in spec.targets}
    tables: dict[str, SiteTable] = {target: sketched.table for target, sketched in measured.items()}
    ahead = foreseen(spec, subject, known, tables)
    images = sum(ahead.tier_images)
    tier_images = [[f"{tier}/{n}" for n in range(count)] for tier, count in enumerate(ahead.tier_images)]
    sampled = _by_section(spec, tables, tier_images)
    for target, (table, seconds, _) in measured.items():
        for section, own in zip(spec.faults, sampled, strict=True):
            if section.target == target:
                sections.append(_section(spec, section, table, own, images, seconds))
    rows = sum(section.rows for section in sections)
    gates = {target: _gate_rows(spec, sections, tables[target], images) for target in spec.targets}
    size = spec.engine.sketched_batch
    needed = bytes_needed(
        rows, images, subject.dataset, {target: sketched.plain for target, sketched in measured.items()}
    )
    if folder is not None:
        check_disk(folder, needed)
    return DryRunReport(
        name=spec.name,
        faults=sum(section.faults for section in sections),
        rows=rows,
        images=images,
        tier_images=list(ahead.tier_images),
        training_epochs=known.training_epochs,
        bytes=needed,
        warnings=[*ahead.warnings, *_dead(sections)],
        unchecked=list(ahead.unchecked),
        confidence=spec.confidence,
        sections=sections,
        estimated_seconds=round(sum(section.estimated_seconds for section in sections), 1),
        gate_rows=sum(gates.values()),
        gate_seconds=round(sum(rows / size * measured[target].seconds for target, rows in gates.items()), 1),
    )


def _gate_rows(spec: CampaignSpec, sections: Sequence[SectionPreview], table: SiteTable, images: int) -> int:
    """Inferences of all gates of a target."""
    total = 0
    for (target, where), patterns in spec.target_places.items():
        if target == table.target:
            faults = sum(s.faults for s in sections if (s.target, s.where) == (target, where))
            chosen = table.select_any(where, patterns)
            each = spec.images_each(target, where) or images
            total += gate_rows(spec, table, where, chosen, faults, min(images, each))
    return total


def _dead(sections: Sequence[SectionPreview]) -> list[str]:
    """What to warn of sections that add no fault."""
    return [
        f"faults.{number} adds no fault: every stratum it names is another section's, which asks for as many or more"
        for number, section in enumerate(sections)
        if not section.faults
    ]


class MeasuredTarget(NamedTuple):
    """A target's sites, engine seconds per batch of its fault-free twin here and now, and its plain file."""

    table: SiteTable
    seconds: float
    plain: bytes


def sites_and_speed(spec: CampaignSpec, subject: PreviewSubject, target: str) -> MeasuredTarget:
    engine = spec.engine
    plain, batch, weights = subject.sketch(target)
    table = subject.site_table(plain, target)
    twin = instrument(plain, table).SerializeToString()
    request = EngineRequest.of_bytes(
        twin,
        table.deployment_id,
        precision=engine.precision,
        threads=engine.sketched_threads,
        max_batch=engine.sketched_batch,
        weights=weights,
    )
    feeds = {input_name(twin): batch, **PortFeed.idle(len(batch)).as_inputs(table)}
    with open_engine(spec.engine.backend, request) as runner:
        runner.run(feeds)
        start = time.perf_counter()
        for _ in range(_TIMED_BATCHES):
            runner.run(feeds)
        seconds = (time.perf_counter() - start) / _TIMED_BATCHES
        return MeasuredTarget(table, seconds * (engine.sketched_batch / len(batch)), plain)


@dataclass
class _SectionSums:
    """Sums over the strata of one section. sampled: faults per (fault model, display cell's name)."""

    sampled: Counter[tuple[str, str]] = field(default_factory=Counter)
    population: int = 0
    per_stratum: list[int] = field(default_factory=list)

    def add(self, sampled: Sampled, section: FaultSpec) -> None:
        stratum = sampled.stratum
        model = section.label(stratum.op)
        for cell in ("all", f"site {stratum.site.name}", f"bit class {stratum.site.format.bit_class(stratum.bit)}"):
            self.sampled[(model, cell)] += sampled.drawn
        self.population += stratum.population
        self.per_stratum.append(sampled.drawn)


def _by_section(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]
) -> list[_SectionSums]:
    """A stratum that several sections name is one of the section that asks for most of it."""
    sums = [_SectionSums() for _ in spec.faults]
    for sampled in sampled_strata(spec.faults, tables, tier_images):
        sums[sampled.section].add(sampled, spec.faults[sampled.section])
    return sums


def _section(
    spec: CampaignSpec, section: FaultSpec, table: SiteTable, own: _SectionSums, images: int, seconds_per_batch: float
) -> SectionPreview:
    faults = sum(own.per_stratum)
    each = min(images, spec.images_each(section.target, section.where) or images) if section.persistent else 1
    rows, size = faults * each, spec.engine.sketched_batch
    batches = faults * -(-each // size) if section.where == "weight" else -(-rows // size)
    return SectionPreview(
        target=section.target,
        where=section.where,
        ops=section.ops,
        pattern=section.pattern_name("flip"),
        scope="persistent" if section.persistent else "inference",
        sites=len(table.select(section.where, section.sites)),
        strata=len(own.per_stratum),
        faults_per_stratum=FaultsPerStratum(min(own.per_stratum, default=0), max(own.per_stratum, default=0)),
        population=own.population,
        faults=faults,
        rows=rows,
        half_width=_half_widths(own.sampled, spec.confidence),
        estimated_seconds=round(batches * seconds_per_batch, 1),
    )


def _half_widths(sampled: Counter[tuple[str, str]], confidence: float) -> dict[str, HalfWidths]:
    """Per fault model: half the width of the interval of a rate of one half (the widest), over everything, over the
    smallest site and over the smallest bit class. Faults count as independent; images of one fault add nothing."""
    widths: dict[str, HalfWidths] = {}
    for model in dict.fromkeys(model for model, _ in sampled):
        widths[model] = HalfWidths(
            all=_half_width(sampled[(model, "all")], confidence),
            site=_half_width(_fewest(sampled, model, "site "), confidence),
            bit_class=_half_width(_fewest(sampled, model, "bit class "), confidence),
        )
    return widths


def _fewest(sampled: Counter[tuple[str, str]], model: str, cells: str) -> int:
    """Faults of a model in the smallest of the cells whose name begins so."""
    return min(n for (of, cell), n in sampled.items() if of == model and cell.startswith(cells))


def _half_width(faults: int, confidence: float) -> float:
    low, high = wilson(faults / 2, faults, confidence)
    return float(high - low) / 2
