"""The golden word of every element that a plan strikes: the engine's own value there, without the fault.

Each row's live word is checked against it when the fault is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Injections
from testbed.campaign.evaluate.injections import injections_of
from testbed.campaign.files import Files, words_file
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.table import PlanSlice, widest
from testbed.campaign.plan.units import plan_slice_of, units_of
from testbed.core.arrays import Words32
from testbed.core.errors import StaleArtefact
from testbed.core.protected import PREFIX
from testbed.engines.batches import pad_rows
from testbed.golden.arrays import array_writer, read_array
from testbed.instrument.ports.feed import NO_SITE, PortFeed, to_words
from testbed.instrument.ports.prefix import with_live_outputs

_PROBE_BYTES = 256 * 2**20


_WORDS_AT_ONCE = 1 << 18  # that are read in one pass over the images


def write_plan_words(workplace: Workplace, plan: str) -> None:
    """Writes the words of a plan file of the folder, beside it."""
    path, images = workplace.folder / plan, len(workplace.images)
    parts = list(units_of(path, plan, images, max(1, _WORDS_AT_ONCE // widest(path)), 0))
    target_places = (plan_slice_of(path, unit.start, unit.stop) for unit in parts)
    write_words(workplace, plan, (unit.words for unit in parts), target_places)


def write_words(workplace: Workplace, plan: str, counts: Iterable[int], parts: Iterable[PlanSlice]) -> None:
    """Writes the words of one plan. counts: words of each part; parts: its plan slices, cut as small as memory asks."""
    total = int(sum(counts))
    with array_writer(workplace.folder / words_file(plan), total, np.uint32) as writer:
        for plan_slice in parts:
            if plan_slice.where == "activation":
                writer.append(golden_words(workplace, plan_slice))
        if not total:
            writer.append(np.zeros(0, np.uint32))


def read_words(path: Path) -> NDArray[np.uint32]:
    """Memory-mapped. Raises StaleArtefact for a damaged file."""
    words = read_array(path)
    if words.dtype != np.uint32 or words.ndim != 1:
        raise StaleArtefact(f"{path} does not hold golden words; rerun with `testbed campaign run SPEC --redo plan`")
    return words


def golden_words(workplace: Workplace, plan_slice: PlanSlice) -> Words32:
    """(entries,) of a plan slice of activation faults, strike after strike, element after element."""
    engine = workplace.engine(plan_slice.target, plan_slice.where)
    _, injections = injections_of(plan_slice, engine.table, engine.images)
    used = injections.ports.site != NO_SITE
    if workplace.spec.engine.precision != "fp32":  # outputs added to a graph can change where it is rounded
        return read_live(engine, injections)[used]
    of_checks = np.array([*(name.startswith(PREFIX) for name in engine.table.ports), False])  # NO_SITE indexes the last
    read = of_checks[injections.ports.site].any(
        axis=1
    )  # sums, which are added up in another order when they are outputs
    words = np.zeros(used.shape, np.uint32)
    for rows, take in ((np.flatnonzero(~read), _probed), (np.flatnonzero(read), _read)):
        if len(rows):
            of_rows = np.zeros_like(used)
            of_rows[rows] = used[rows]
            words[of_rows] = take(workplace, engine, injections.take(rows))
    return words[used]


def _read(workplace: Workplace, engine: CampaignEngine, injections: Injections) -> Words32:
    return read_live(engine, injections)[injections.ports.site != NO_SITE]


def read_live(engine: CampaignEngine, injections: Injections) -> Words32:
    """(n, K): what the twin itself tells of each element while something is written there: nothing before a port changes.

    One element at a time, as a value written at one site would change what the next one holds.
    """
    faulty = injections.ports.site != NO_SITE
    words = np.zeros(faulty.shape, np.uint32)
    for point in range(injections.ports.points):
        rows = np.flatnonzero(faulty[:, point])
        for start in range(0, len(rows), engine.batch):
            part = rows[start : start + engine.batch]
            site, index = injections.ports.site[part, point], injections.ports.index[part, point]
            feed = PortFeed.writing(site, index, np.zeros(len(part), np.uint32))
            _, live = engine.run(injections.image[part], feed)
            assert live is not None
            words[part, point] = live[:, 0]
    return words


@dataclass(frozen=True)
class _Entries:
    """Struck elements, in the order of their words: (entries,) each."""

    image: NDArray[np.int64]
    site: NDArray[np.int64]
    index: NDArray[np.int64]

    @classmethod
    def of(cls, injections: Injections) -> _Entries:
        rows, points = np.nonzero(injections.ports.site != NO_SITE)
        ports = injections.ports
        return cls(injections.image[rows], ports.site[rows, points], ports.index[rows, points])

    def by_site(self, names: list[str]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        order = np.argsort(self.site, kind="stable")
        sites, starts = np.unique(self.site[order], return_index=True)
        for site, part in zip(sites, np.split(order, starts[1:]), strict=True):
            yield names[site], part


def _probed(workplace: Workplace, engine: CampaignEngine, injections: Injections) -> Words32:
    """One fault-free pass over the images, through the twin with its live tensors as extra outputs."""
    entries = _Entries.of(injections)
    words = np.empty(len(entries.index), np.uint32)
    if not len(words):
        return words
    by_site = dict(entries.by_site(list(engine.table.ports)))
    twin = workplace.request(engine.target, Files(engine.target).twin)
    probe = with_live_outputs(twin.onnx, map(engine.table.__getitem__, by_site))
    bytes_per_image = sum(engine.table[site].elements for site in by_site) * 4
    chunk = int(np.clip(_PROBE_BYTES // bytes_per_image, 1, engine.batch))
    wanted = np.unique(entries.image)
    with workplace.open(replace(twin, onnx=probe, file_sha256="probe")) as runner:
        for start in range(0, len(wanted), chunk):
            images = wanted[start : start + chunk]
            ports = PortFeed.idle(chunk).as_inputs(engine.table)
            outputs = runner.run({engine.input_name: engine.inputs(pad_rows(images, chunk)), **ports})
            for site, at_site in by_site.items():
                here = at_site[(entries.image[at_site] >= images[0]) & (entries.image[at_site] <= images[-1])]
                flat = outputs[f"{engine.table[site].tensor}/live"].reshape(chunk, -1)
                place_of = np.searchsorted(images, entries.image[here])
                words[here] = to_words(flat[place_of, entries.index[here]])
    return words
