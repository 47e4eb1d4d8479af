"""Weight faults: only what follows the struck weight is run, over their images, from golden values before it.

The weights are struck in place, in engines that start at an entry point before them (see `entry_points`); no engine is
rebuilt. The bits are those of the whole engine with weights that can be struck, if the gate has shown so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from pydantic import JsonValue

from testbed.campaign.evaluate.contract import FaultyRun, OpenPart, RunWhole, WordChanges
from testbed.campaign.evaluate.suffix.segments import COPIES, Clock, Segment, group_ends
from testbed.campaign.evaluate.weights.entry_points import EntryPoints, Start, may_fuse
from testbed.campaign.folder.images import Inputs
from testbed.core.arrays import Int64s
from testbed.core.errors import StaleArtefact
from testbed.core.outcome import How
from testbed.engines.batches import batches, pad_values
from testbed.engines.runner import WeightFault, WeightInjector, faulty_weights
from testbed.instrument.cut.flow import CannotCut
from testbed.instrument.cut.segments import cut_segment
from testbed.instrument.cut.stages import Stages
from testbed.instrument.cut.tokens import ROWS, Restricted, restricted
from testbed.instrument.cut.work import macs

GIB = 2**30


@dataclass(frozen=True)
class WeightShortcuts:
    """``start``: suffixes start at what the struck weight multiplies, at the last tensor before it through which everything
    goes, or before its block. ``last``: in the last block only the tokens that the head looks at are run."""

    start: Start = "operand"
    last: bool = True

    def record(self) -> dict[str, JsonValue]:
        return asdict(self)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> WeightShortcuts:
        """Raises StaleArtefact for a record that another version wrote."""
        if set(values) != {f.name for f in fields(cls)} or values["start"] not in get_args(Start):
            raise StaleArtefact(
                "the manifest's record of weight suffixes is of another version;"
                " rerun with `testbed campaign run SPEC --redo gates`"
            )
        return cls(**values)


class WeightSuffix:
    """``entries``: tensors that suffixes start from, in execution order."""

    def __init__(
        self,
        stages: Stages,
        plan: WeightShortcuts,
        open_: OpenPart,
        whole: RunWhole,
        inputs: Inputs,
        images: int,
        batch: int,
        *,
        golden_bytes: int = GIB,
        weight_bytes: int = GIB,
    ) -> None:
        """Sets the engines' sizes and budgets. inputs: of rows of the named images, ``images`` in all; batch: the
        campaign's frozen one. golden_bytes, weight_bytes: about how much memory golden values, and weights of suffixes,
        may take."""
        self.stages, self.plan, self._open, self._whole = stages, plan, open_, whole
        self._inputs, self._images, self._batch = inputs, images, batch
        self._clock = Clock()
        self._weight_bytes = weight_bytes
        self._built: dict[tuple[str, str], Segment] = {}
        self._suffixes: dict[str, list[Segment]] = {}
        self._fed: dict[str, list[dict[str, NDArray]]] = {}
        self.entries = EntryPoints(stages, images, golden_bytes, weight_bytes // COPIES, plan.start)

    @property
    def engine_seconds(self) -> float:
        return self._clock.seconds

    def close(self) -> None:
        for segment in self._built.values():
            segment.runner.close()
        self._built.clear()
        self._suffixes.clear()

    def inject(self, faults: Sequence[WeightFault], images: Int64s | None = None) -> FaultyRun:
        """Outputs of images while these weights are faulty. images: (n,) rows of the named ones; all of them unless said.

        Raises EngineError.
        """
        entry = self.entries.before([fault.tensor for fault in faults])
        if entry is None:
            return self._whole(faults, images)
        segments = self._suffix(entry)
        with _faulty(segments, faults) as words:
            if all(before.tobytes() == after.tobytes() for before, after in words):
                golden = self.golden.copy() if images is None else self.golden[images]
                return FaultyRun(golden, words, How.UNCHANGED)
            return FaultyRun(self._run(entry, segments, images), words, How.SUFFIX)

    @cached_property
    def golden(self) -> NDArray[np.float32]:
        return self._whole([]).outputs

    @cached_property
    def _output(self) -> str:
        return self.stages.flow.output

    def golden_by_pieces(self, entry: str) -> NDArray:
        """(images, ...) outputs of a suffix while nothing is struck."""
        return self._run(entry, self._suffix(entry))

    def relative_cost(self, tensors: Sequence[str]) -> float:
        """Share of a whole inference's multiply-accumulates that is run for each image while these weights are struck."""
        flow, entry = self.stages.flow, self.entries.before(tensors)
        if entry is None:
            return 1.0
        cost, start = 0.0, entry
        for stop in self._stops(entry):
            few = self._model(start, stop)
            cost += macs(flow, flow.between(*self._ends(start, stop)), few.shapes)
            start = stop
        return cost / (macs(flow, range(len(flow.nodes))) or 1.0)

    def _run(self, entry: str, segments: Sequence[Segment], images: Int64s | None = None) -> NDArray:
        output, parts = self._output, []
        for held in self._batches(entry, images):
            for segment in segments:
                held = held | segment({name: held[name] for name in segment.inputs})
            parts.append(held[output])
        outputs = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return outputs[: self._images if images is None else len(images)]

    def _batches(self, entry: str, images: Int64s | None) -> list[dict[str, NDArray]]:
        """What the first engine of a suffix is fed, batch after batch: for all images the same whatever is struck."""
        if images is not None:
            return self._fed_with(
                entry, [images[start : start + self._batch] for start in range(0, len(images), self._batch)]
            )
        if entry not in self._fed:
            starts = range(0, self._images, self._batch)
            self._fed[entry] = self._fed_with(entry, [slice(start, start + self._batch) for start in starts])
        return self._fed[entry]

    def _fed_with(self, entry: str, rows: Sequence[Int64s | slice]) -> list[dict[str, NDArray]]:
        """Golden values of these images, in full batches; a slice copies nothing."""
        golden, names = self._golden_values, self.entries.needed(entry)
        return [
            {name: pad_values(golden[name][some], self._batch, filler=golden[name][0]) for name in names}
            for some in rows
        ]

    @cached_property
    def _golden_values(self) -> dict[str, NDArray]:
        """(images, ...) of every entry, from the engine with weights that can be struck."""
        flow = self.stages.flow
        names = list(dict.fromkeys(name for entry in self.entries.names for name in self.entries.needed(entry)))
        segment = self._segment(cut_segment(flow, [flow.input], [*names, flow.output]), [flow.input])
        values: dict[str, NDArray] = {}
        for batch in batches(self._images, self._batch):
            outputs = segment({flow.input: self._inputs(batch.padded)})
            for name in names:
                if name not in values:
                    values[name] = np.empty((self._images, *outputs[name].shape[1:]), outputs[name].dtype)
                values[name][batch.rows] = outputs[name][: len(batch.rows)]
        segment.runner.close()
        return values

    # ---- engines

    def _suffix(self, entry: str) -> list[Segment]:
        if entry not in self._suffixes:
            self._suffixes[entry] = self._opened(entry)
        return self._suffixes[entry]

    def _opened(self, entry: str) -> list[Segment]:
        segments, start = [], entry
        for stop in self._stops(entry):
            if (start, stop) not in self._built:
                few = self._model(start, stop)
                self._built[start, stop] = self._segment(few.proto, self._ends(start, stop)[0])
            segments.append(self._built[start, stop])
            start = stop
        return segments

    def _stops(self, entry: str) -> list[str]:
        """Where the engines from an entry on end, one after the other."""
        position, own = self.stages.flow.producer, self.entries.own_end(entry)
        stops = [stop for stop in self._all_stops if position[stop] > position[entry]]
        return stops if own is None or own in stops else [own, *stops]

    @cached_property
    def _all_stops(self) -> list[str]:
        """The stages at which suffixes end, as few as memory allows: a stage's weights are held about once for each
        entry in it, and before it, unless its engine ends with its stage."""
        sizes = [self.entries.per_stage * size for size in self.stages.weight_bytes]
        budget = self._weight_bytes - COPIES * self.entries.own_bytes(self.entries.names)
        ends = [self.stages.stages[number - 1].end for number in group_ends(sizes, budget)]
        return [end for end in ends if end == self.stages.flow.output or not may_fuse(self.stages.flow, end)]

    def _model(self, start: str, stop: str) -> Restricted:
        flow, rows = self.stages.flow, self.stages.last_rows if self.plan.last else None
        if rows is not None and stop == flow.output:
            with suppress(CannotCut):
                picked, inputs = (rows * ROWS)[: max(ROWS, len(rows))], self.entries.needed(start)
                return restricted(flow, flow.between(inputs, [stop]), inputs, {stop: None}, picked)
        return Restricted(cut_segment(flow, *self._ends(start, stop)), {})

    def _ends(self, start: str, stop: str) -> tuple[list[str], list[str]]:
        """What an engine from one tensor to another takes and gives, what goes past them to the alarms among it."""
        inputs = [*self.entries.needed(start)]
        return inputs, [name for name in self.entries.needed(stop) if name not in inputs]

    def _segment(self, proto: ModelProto, inputs: Sequence[str]) -> Segment:
        weights = frozenset(tensor.name for tensor in proto.graph.initializer)
        runner = self._open(proto.SerializeToString(), batch=self._batch, mutable_weights=True)
        return Segment(runner, tuple(inputs), self._clock, weights=weights)


def _faulty(segments: Sequence[Segment], faults: Sequence[WeightFault]) -> AbstractContextManager[WordChanges]:
    """Injects the faults, in the order of ``faults``, in every segment that holds a struck weight."""
    if len(segments) == 1:
        return faulty_weights(cast(WeightInjector, segments[0].runner), faults)
    return _faulty_in_several(segments, faults)


@contextmanager
def _faulty_in_several(segments: Sequence[Segment], faults: Sequence[WeightFault]) -> Iterator[WordChanges]:
    with ExitStack() as stack:
        words: WordChanges = []
        for fault in faults:
            holders = [
                segment for segment in segments if fault.tensor in segment.weights
            ]  # several, of one with several uses
            changes = [stack.enter_context(faulty_weights(cast(WeightInjector, p.runner), [fault])) for p in holders]
            words += changes[0]
        yield words
