"""A campaign that is prepared and past its gates, for tools: the very code that turns planned faults into result rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.execute.faults import FaultRunner
from testbed.campaign.execute.worker import fault_runner_for
from testbed.campaign.files import Files
from testbed.campaign.folder.claim import claimed
from testbed.campaign.folder.workplace import TargetPlace
from testbed.campaign.pipeline import Campaign
from testbed.campaign.plan.row import PlanRow, table_of
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.results.progress import Progress
from testbed.campaign.reuse.reuse import Reuse
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.arrays import Words32
from testbed.core.fault import masks_for
from testbed.core.site import SiteTable, Where
from testbed.golden.arrays import read_array


@dataclass(frozen=True, eq=False)
class PreparedFaults:
    """Flips of one target and place, with the golden bits of their elements looked up: ready to be run, and timed."""

    runner: FaultRunner
    plan_slice: PlanSlice
    words: Words32

    def __len__(self) -> int:
        return len(self.plan_slice)

    def rows(self) -> pa.Table:
        """Run all of them: evaluate, judge, and make their result rows. No other run is reused."""
        return self.runner.rows(self.plan_slice, self.words)

    def take(self, faults: NDArray[np.int64]) -> PreparedFaults:
        """Take some of the faults, which last one inference each."""
        part = PlanSlice(self.plan_slice.target, self.plan_slice.where, self.plan_slice.table.take(pa.array(faults)))
        return PreparedFaults(self.runner, part, self.words[faults] if len(self.words) else self.words)


@dataclass(frozen=True, eq=False)
class PreparedCampaign:
    """A campaign whose model, goldens, twins and gates are made. `open_campaign` opens one; it holds engines."""

    _campaign: Campaign
    _runners: dict[TargetPlace, FaultRunner] = field(default_factory=dict)

    @property
    def spec(self) -> CampaignSpec:
        """Its spec."""
        return self._campaign.preparation.spec

    @property
    def batch(self) -> int:
        """Images per run of its engines."""
        return self._campaign.workplace.batch

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Its named images."""
        return self._campaign.workplace.images.ids

    def sites(self, target: str = "model") -> SiteTable:
        """Every tensor of a target that faults can be injected into."""
        return self._campaign.workplace.table(target)

    def inputs(self, target: str = "model") -> NDArray[np.float32]:
        """(n, ...) what the target is fed for the named images."""
        return np.array(read_array(self._campaign.folder / Files(target).inputs))

    def golden(self, target: str = "model", where: Where = "activation") -> NDArray[np.float32]:
        """(n, ...) the engine's outputs for the named images, without a fault."""
        return self._campaign.workplace.engine(target, where).side.stored

    def flips(
        self,
        target: str,
        where: Where,
        sites: Sequence[str],
        index: NDArray[np.int64],
        bits: NDArray[np.int64],
        images: NDArray[np.int64] | None = None,
    ) -> PreparedFaults:
        """Prepare single bit flips.

        Args:
            target: "model" or "attention".
            where: "activation" or "weight".
            sites: Name of the tensor of each.
            index: Flat index of the element of each, in the site's canonical shape.
            bits: Number of the bit of each.
            images: Number of the image of each, for activations; a weight's flip is there for all of them.

        Returns:
            The faults.
        """
        table, rows = self.sites(target), []
        for number, name in enumerate(sites):
            site, bit = table[name], int(bits[number])
            image = None if images is None else self.image_ids[images[number]]
            masks = masks_for("flip", site.format, bit)
            rows.append(PlanRow.single(target, site, "flip", bit, int(index[number]), masks, image, number))
        part = PlanSlice(target, where, table_of(rows))
        words = golden_words(self._campaign.workplace, part) if where == "activation" else np.zeros(0, np.uint32)
        return PreparedFaults(self._runner(target, where), part, words)

    def bare_engine(self, target: str = "model", where: Where = "activation") -> Callable[[int], int]:
        """Open the plain engine: as deployed, or, for faults in weights, with weights that can be changed.

        The function runs so many batches, and returns the number of images.
        """
        workplace, engine = self._campaign.workplace, self._campaign.workplace.engine(target, where)
        runner = workplace.open(workplace.request(target, Files(target).plain, mutable_weights=where == "weight"))
        feeds = {engine.input_name: engine.inputs(np.arange(engine.batch) % len(engine.images))}

        def run(batches: int) -> int:
            for _ in range(batches):
                runner.run(feeds)
            return batches * engine.batch

        run(1)
        return run

    def run(self) -> Mapping[str, Any]:
        """Plan the campaign and run it to its end in this process, engines opened anew.

        Returns:
            What the manifest keeps of the execution: seconds, and of an adaptive campaign its rounds.
        """
        self.release()  # two sets of engines, with their golden values, would be held at once
        self._campaign.plan()
        self._campaign.execute(WorkerSetup(workers=0), Progress(self._campaign.folder.path, lambda snapshot: None))
        facts: Mapping[str, Any] = self._campaign.folder.manifest["stages"]["execute"]["facts"]
        return facts

    def release(self) -> None:
        """Close the engines that faults were run on, golden values with them; they are opened again when they are needed.

        Faults that were prepared before must be prepared again.
        """
        self._runners.clear()
        self._campaign.workplace.close()

    def _runner(self, target: str, where: Where) -> FaultRunner:
        key = (target, where)
        if key not in self._runners:
            self._runners[key] = fault_runner_for(self._campaign.workplace, target, where)
        return self._runners[key]


@contextmanager
def open_campaign(
    spec: CampaignSpec | Mapping[str, Any], folder: Path, *, cache: Path | None = None
) -> Iterator[PreparedCampaign]:
    """Prepare a campaign in a folder, past its gates.

    Args:
        spec: The spec, or its values.
        folder: The run folder.
        cache: Folder of what earlier campaigns prepared, as of `testbed.run`. Default: `$TESTBED_CACHE`.

    Returns:
        A context manager that gives the campaign and closes its engines.

    Raises:
        UsageError: For a wrong spec, and for a folder that holds another campaign.
        GateFailed: For a gate that does not hold.

    Example:
        ```py
        with open_campaign(testbed.load_spec("digits"), Path("runs/bench")) as campaign:
            flips = campaign.flips("model", "activation", ["head"], np.array([3]), np.array([30]), np.array([0]))
            print(flips.rows().column("outcome"))
        ```
    """
    known = spec if isinstance(spec, CampaignSpec) else parse_spec(dict(spec))
    run = claimed(folder, known)
    preparation = Preparation(known, run, reuse=Reuse.named(cache, known.engine.backend))
    with run.locked(), ExitStack() as stack:
        run.save()
        preparation.run()
        campaign = Campaign(preparation, stack)
        campaign.choose_images()
        campaign.gate()
        yield PreparedCampaign(campaign)
