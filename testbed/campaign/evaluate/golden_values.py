"""Classes of an engine's golden values, for strata that are told apart by them: one fault-free pass over the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from testbed.campaign.files import Files
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.steer.value_classes import NAMES, ValueClasses, classed_sites, classes_of, packed_classes
from testbed.core.site import Site
from testbed.engines.batches import pad_rows
from testbed.golden.arrays import array_writer
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.prefix import with_live_outputs

_PROBE_BYTES = 256 * 2**20


def classed_targets(workplace: Workplace) -> dict[str, list[Site]]:
    """List, by target, the sites whose golden values tell strata apart; none where the spec does not ask for it."""
    spec = workplace.spec
    if spec.stop is None or "value" not in spec.stop.sampled_by:
        return {}
    sites = {target: classed_sites(table, spec.faults) for target, table in workplace.plannable.items()}
    return {target: some for target, some in sites.items() if some}


def value_files(workplace: Workplace) -> list[str]:
    """Name the files that `write_value_classes` writes."""
    return [
        file for target in classed_targets(workplace) for file in (Files(target).values, Files(target).value_counts)
    ]


def write_value_classes(workplace: Workplace) -> None:
    """Write which class each golden value of each named image is in. Raises EngineError."""
    for target, sites in classed_targets(workplace).items():
        _write(workplace, target, sites)


def read_value_classes(workplace: Workplace) -> Mapping[str, ValueClasses]:
    """Read the classes of each target. Raises StaleArtefact for damaged files."""
    folder, ids = workplace.folder, workplace.images.ids
    return {
        target: ValueClasses.read(folder / Files(target).values, folder / Files(target).value_counts, sites, ids)
        for target, sites in classed_targets(workplace).items()
    }


def _write(workplace: Workplace, target: str, sites: list[Site]) -> None:
    engine, files, images = workplace.engine(target, "activation"), Files(target), len(workplace.images)
    twin = workplace.request(target, files.twin)
    probe = with_live_outputs(twin.onnx, sites)
    chunk = int(np.clip(_PROBE_BYTES // (4 * sum(site.elements for site in sites)), 1, engine.batch))
    idle = PortFeed.idle(chunk).as_inputs(engine.table)
    with (
        workplace.open(replace(twin, onnx=probe, file_sha256="probe")) as runner,
        array_writer(workplace.folder / files.values, images, np.uint8) as packed,
        array_writer(workplace.folder / files.value_counts, images, np.int32) as counts,
    ):
        for start in range(0, images, chunk):
            rows = np.arange(start, min(start + chunk, images))
            outputs = runner.run({engine.input_name: engine.inputs(pad_rows(rows, chunk)), **idle})
            values = [outputs[f"{site.tensor}/live"].reshape(chunk, -1)[: len(rows)] for site in sites]
            packed.append(np.concatenate([packed_classes(some) for some in values], axis=1))
            sizes = [[(classes_of(some) == number).sum(1) for number in range(len(NAMES))] for some in values]
            counts.append(np.array(sizes, np.int32).transpose(2, 0, 1))
