"""Faults inside the first attention module, followed on to the logits: what the module's output would have shown.

The stored rows say what came of each fault. Here the same faults are run again, in the same engine, as far as the module's
output, once; `testbed.sweep.linked` asks how well a check there would have foreseen the changed predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.analysis.outputs.compare import Deviation, by_row, identical
from testbed.campaign.evaluate.contract import Injections
from testbed.campaign.facts import LinkFacts
from testbed.campaign.files import PLAN, RESULTS, TIERS, Files
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.table import read_plan
from testbed.campaign.results.reader import RESULT_TABLE, form_of
from testbed.core.errors import EngineError, UsageError
from testbed.core.folder.files import atomic_path
from testbed.core.folder.forms import Form
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import Target, Where
from testbed.engines.batches import pad_rows
from testbed.engines.runner import EngineRequest, Runner
from testbed.golden.arrays import read_array
from testbed.instrument.packed import JudgedOutputs
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.prefix import up_to, with_output
from testbed.instrument.shapes import input_name, output_name
from testbed.sweep.injections import planned_injections
from testbed.sweep.noise import COMMAND, ProgressOpener
from testbed.sweep.thresholds import ENDED

LINK = "link.parquet"
STAGE = "link"
LINK_TABLE = form_of(
    "followed faults",
    f"run `{COMMAND} DIR --link` again",
    pa.schema(
        [
            ("fault_id", pa.int64()),
            ("image_id", pa.string()),
            ("module_max_abs_diff", pa.float64()),
            ("module_masking_atol", pa.list_(pa.float64())),
            ("module_nonfinite", pa.bool_()),
            ("module_identical", pa.bool_()),
        ]
    ),
    ("image_id", "module_masking_atol"),
)
VERSION = 1  # of what is stored
MODULE = "block.0.attn"
OUTPUT = f"{MODULE}.proj"
_TARGET: Target = "model"
_PLACE: Where = "activation"
_CHECKED_ROWS = 256
_GOLDEN_BYTES = 256 * 2**20


class LinkInputs(Form):
    """What a link is made from: hashes of files, and what was asked for."""

    results: str
    twin: str
    tiers: str
    limit: int | None
    version: int


def measure_link(workplace: Workplace, limit: int | None, progress: ProgressOpener) -> LinkFacts:
    """Writes ``link.parquet``, unless it is there: per (fault, image) the deviation of the module's output.

    limit: at most so many faults, the first draws of every stratum. Returns the facts of the stage.

    Raises UsageError for a campaign without such faults, EngineError where the engine gives other bits than it did.
    """
    folder = workplace.folder
    for file in (PLAN, RESULTS):
        folder.verify_file(file)
    measurement = LinkMeasurement(workplace, limit)
    made_from = LinkInputs(
        results=folder.output_hash("execute", RESULTS),
        twin=folder.output_hash(f"instrument.{_TARGET}", Files(_TARGET).twin),
        tiers=folder.output_hash("tiers", TIERS),
        limit=limit,
        version=VERSION,
    )
    folder.stage(STAGE, made_from.to_json(), [LINK], lambda: measurement.write(progress), command=COMMAND)
    return facts_of(folder, STAGE, LinkFacts)


@dataclass(frozen=True)
class _Rows:
    """What is to be run. fault_id, image: (n,); strikes: with their golden words; ended: rows left out."""

    fault_id: NDArray[np.int64]
    injections: Injections
    ended: int

    def __len__(self) -> int:
        return len(self.fault_id)


class LinkMeasurement:
    def __init__(self, workplace: Workplace, limit: int | None) -> None:
        self.workplace, self.limit = workplace, limit
        if _TARGET not in workplace.spec.targets or OUTPUT not in workplace.table(_TARGET).ports:
            raise UsageError(f"this campaign strikes no model with a tensor {OUTPUT}; there is no such link to look at")
        self.table, self.images = workplace.table(_TARGET), workplace.images
        self.output = self.table[OUTPUT]
        self.inputs = read_array(workplace.folder / Files(_TARGET).inputs)
        self.rtols = workplace.spec.tolerance.rtol_grid

    @cached_property
    def _inside(self) -> list[str]:
        """The module's sites: those of its name that its output is made from."""
        prefix = onnx.load_from_string(up_to((self.workplace.folder / Files(_TARGET).twin).read_bytes(), self.output))
        made = {name for node in prefix.graph.node for name in node.output}
        return [name for name in self.table.ports if name.startswith(f"{MODULE}.") and self.table[name].tensor in made]

    @cached_property
    def rows(self) -> _Rows:
        plan = read_plan(self.workplace.folder / PLAN)
        chosen = _chosen(plan, self._inside, self.limit)
        if not len(chosen):
            raise UsageError(
                f"no planned fault strikes {MODULE}.* of the model; add such a section of activation faults"
            )
        fault_id, injections = planned_injections(self.workplace, _TARGET, plan, chosen)
        inside = np.array([*(name in self._inside for name in self.table.ports), True])  # NO_SITE indexes the last
        kept = inside[injections.ports.site].all(axis=1)
        ended = kept & self._ended(fault_id, injections.image)
        rows = np.flatnonzero(kept & ~ended)
        rows = rows[
            np.argsort(injections.image[rows], kind="stable")
        ]  # image after image: their goldens need not all be kept
        return _Rows(fault_id[rows], injections.take(rows), int(ended.sum()))

    def _ended(self, fault_id: NDArray[np.int64], image: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows whose fault ended the engine: they are not run again."""
        ended = pc.field("due").isin(list(ENDED))
        results = RESULT_TABLE.read(self.workplace.folder / RESULTS, ["fault_id", "image_id"], ended)
        keys = set(zip(results.column("fault_id").to_pylist(), results.column("image_id").to_pylist(), strict=True))
        ids = self.images.ids
        return np.array([(f, ids[i]) in keys for f, i in zip(fault_id.tolist(), image.tolist(), strict=True)], bool)

    def write(self, progress: ProgressOpener) -> LinkFacts:
        rows = self.rows
        if not len(rows):
            raise UsageError(f"no fault strikes {MODULE}.* alone and lets the engine live; there is nothing to follow")
        twin = self.workplace.request(_TARGET, Files(_TARGET).twin)
        prefix = replace(twin, onnx=up_to(twin.onnx, self.output), file_sha256=f"{twin.file_sha256} to {OUTPUT}")
        whole = replace(twin, onnx=with_output(twin.onnx, self.output), file_sha256=f"{twin.file_sha256} and {OUTPUT}")
        with self.workplace.open(prefix) as short:
            same = self.gives_same_bits(short, whole)
        with (
            self.workplace.open(prefix if same else whole) as runner,
            progress(len(rows), "rows followed") as advance,
            atomic_path(self.workplace.folder / LINK) as temporary,
            pq.ParquetWriter(temporary, LINK_TABLE.schema) as writer,
        ):
            for part in self._parts(runner):
                writer.write_table(part)
                advance(part.num_rows)
        faults = len(np.unique(rows.fault_id))
        return LinkFacts(
            sites=self._inside,
            faults=faults,
            rows=len(rows),
            ended=rows.ended,
            checked=self._sample.size,
            evaluated="prefix" if same else "whole",
        )

    # ---- the same bits

    @cached_property
    def _sample(self) -> NDArray[np.int64]:
        return np.unique(np.linspace(0, len(self.rows) - 1, min(_CHECKED_ROWS, len(self.rows))).astype(np.int64))

    def gives_same_bits(self, prefix: Runner, whole: EngineRequest) -> bool:
        """Whether the prefix gives the module's output as the whole engine has it.

        Raises EngineError where the whole engine, with that output beside its own, gives other logits than it stored.
        """
        sample = self._sample
        name = output_name(whole.onnx)
        same, wrong = True, 0
        with self.workplace.open(whole) as runner:
            for start in range(0, len(sample), self.workplace.batch):
                rows = sample[start : start + self.workplace.batch]
                results = self._run(runner, rows)
                stored = self._stored_logits(rows)
                wrong += int((~identical(JudgedOutputs.of(results[name], name).values, stored)).sum())
                alone = self._run(prefix, rows)[self.output.tensor]
                same &= bool(identical(alone, results[self.output.tensor]).all())
        if wrong:
            raise EngineError(
                f"{wrong} of {len(sample)} rows have other logits when the output of {MODULE} is read as well: this engine"
                " rounds elsewhere then, and what it holds there cannot be told"
            )
        return same

    def _stored_logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, K), NaN payloads included."""
        fault_id, image = self.rows.fault_id[rows], self.rows.injections.image[rows]
        wanted = pc.field("fault_id").isin(fault_id.tolist())
        columns = ["fault_id", "image_id", "logits"]
        path = self.workplace.folder / RESULTS
        results = RESULT_TABLE.read(path, columns, wanted & ~pc.field("due").isin(ENDED))
        ids = results.column("image_id").cast(pa.string()).to_pylist()
        index_of = {key: n for n, key in enumerate(zip(results.column("fault_id").to_pylist(), ids, strict=True))}
        lists = results.column("logits").combine_chunks()
        logits = pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(results.num_rows, -1)
        keys = zip(fault_id.tolist(), (self.images.ids[i] for i in image), strict=True)
        return logits[[index_of[key] for key in keys]]

    # ---- running

    def _run(self, runner: Runner, rows: NDArray[np.int64]) -> dict[str, NDArray]:
        """Outputs of at most a batch of the rows."""
        injections = self.rows.injections.take(rows)
        return self._fed(runner, injections.image, injections.ports)

    def _fed(self, runner: Runner, image: NDArray[np.int64], ports: PortFeed) -> dict[str, NDArray]:
        batch, n = self.workplace.batch, len(image)
        feeds = {self._input: self.inputs[pad_rows(image, batch)], **ports.padded(batch).as_inputs(self.table)}
        return {name: values[:n] for name, values in runner.run(feeds).items()}

    @cached_property
    def _input(self) -> str:
        return input_name((self.workplace.folder / Files(_TARGET).twin).read_bytes())

    def _parts(self, runner: Runner) -> Iterator[pa.Table]:
        """The rows' deviations, batch by batch, keeping the golden outputs of some images at a time."""
        image = self.rows.injections.image
        per_image = self.output.elements * 4
        at_once = max(1, _GOLDEN_BYTES // per_image)
        for first in range(0, len(self.images), at_once):
            last = min(first + at_once, len(self.images))
            low, high = np.searchsorted(image, [first, last])
            if low < high:
                golden = self._golden(runner, first, last)
                for start in range(low, high, self.workplace.batch):
                    rows = np.arange(start, min(start + self.workplace.batch, high))
                    faulty = self._run(runner, rows)[self.output.tensor]
                    yield self._compared(rows, faulty, golden[image[rows] - first])

    def _golden(self, runner: Runner, first: int, last: int) -> NDArray:
        parts = []
        for start in range(first, last, self.workplace.batch):
            images = np.arange(start, min(start + self.workplace.batch, last))
            parts.append(self._fed(runner, images, PortFeed.idle(len(images)))[self.output.tensor])
        return np.concatenate(parts)

    def _compared(self, rows: NDArray[np.int64], faulty: NDArray, golden: NDArray) -> pa.Table:
        deviation = Deviation(faulty, golden)
        atol = np.stack([deviation.smallest_atol(rtol) for rtol in self.rtols], axis=1)
        width = len(self.rtols)
        finite = np.isfinite(by_row(np.asarray(faulty, np.float32))).all(axis=1)
        columns = [
            pa.array(self.rows.fault_id[rows]),
            pa.array([self.images.ids[image] for image in self.rows.injections.image[rows]]),
            pa.array(deviation.max_abs()),
            pa.FixedSizeListArray.from_arrays(atol.reshape(-1), width).cast(pa.list_(pa.float64())),
            pa.array(~finite),
            pa.array(identical(faulty, golden)),
        ]
        return pa.Table.from_arrays(columns, schema=LINK_TABLE.schema)


def _chosen(plan: pa.Table, sites: Sequence[str], limit: int | None) -> NDArray[np.int64]:
    """Positions of the plan's faults at these sites; of more than ``limit`` the first draws of every stratum, which are a
    sample of it as all of them are."""
    text = {name: plan.column(name).cast(pa.string()) for name in ("target", "where", "site")}
    inside = pc.is_in(text["site"], value_set=pa.array(sites))
    inside = pc.and_(inside, pc.equal(text["target"], _TARGET))
    inside = pc.and_(inside, pc.equal(text["where"], _PLACE))
    positions = np.flatnonzero(np.asarray(inside))
    if limit is None or limit >= len(positions):
        return positions
    order = np.lexsort([plan.column(name).to_numpy()[positions] for name in ("fault_id", "draw", "round")])
    return np.sort(positions[order[:limit]])
