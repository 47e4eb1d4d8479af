"""Words that no tensor holds without a fault, and the twin of a protected file that they are put into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from testbed.core.arrays import Float32s
from testbed.core.errors import TestbedError
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.instrument.ports.feed import DTYPES, PortFeed, to_words
from testbed.instrument.ports.insertion import instrument

LOUD = {  # 1e30, the largest fp16, 1e30; of integers the end that is further away from what is there
    "fp32": (0x7149F2CA,),
    "fp16": (0x7BFF,),
    "bf16": (0x7149,),
    "int8": (0x7F, 0x80),
    "uint8": (0xFF, 0x00),
}
INTEGERS = ("int8", "uint8")
_ROWS = 8
_WATCHED = "watched/"


@dataclass(frozen=True)
class LoudFault:
    """``word`` is written into an element of a site, the middle one unless said."""

    site: Site
    word: int
    at: int | None = None

    @property
    def element(self) -> int:
        return self.site.elements // 2 if self.at is None else self.at

    def writing(self, value: float) -> LoudFault:
        """The fault that writes a number there, as the site's format holds it."""
        (word,) = to_words(np.array([value], DTYPES[self.site.format_name]))
        return replace(self, word=int(word))


@dataclass(frozen=True, eq=False)
class CanaryTwin:
    """A file's twin with ports at some sites, open in an engine. Its rows all hold one image: (1, C, S, S)."""

    runner: Runner
    table: SiteTable
    input_name: str
    image: Float32s
    watched: tuple[str, ...]

    def run(self, faults: Sequence[LoudFault] = ()) -> dict[str, NDArray]:
        """Every output, and every watched tensor by its name: (rows, ...), the faults in the first rows, none in the last."""
        assert len(faults) < _ROWS
        idle = _ROWS - len(faults)
        numbers = np.array([*(self.table.ports[fault.site.name] for fault in faults), *([-1] * idle)], np.int64)
        index = np.array([*(fault.element for fault in faults), *([0] * idle)], np.int64)
        words = np.array([*(fault.word for fault in faults), *([0] * idle)], np.uint32)
        ports = PortFeed.writing(numbers, index, words).as_inputs(self.table)
        results = self.runner.run({self.input_name: np.repeat(self.image, _ROWS, axis=0), **ports})
        shown = {name: results[f"{_WATCHED}{number}"] for number, name in enumerate(self.watched)}
        return {**results, **shown}


@contextmanager
def open_canary_twin(
    proto: ModelProto,
    table: SiteTable,
    sites: Iterable[Site],
    watched: Iterable[str],
    image: Float32s,
    engine: str,
    precision: str,
) -> Iterator[CanaryTwin]:
    """The twin of a file, with ports at ``sites`` alone, that shows the ``watched`` tensors, numbers as float32.

    Raises TestbedError for a tensor that the file does not have.
    """
    own = replace(table, sites=tuple(dict.fromkeys(sites)))
    tensors = tuple(dict.fromkeys(watched))
    twin = instrument(proto.SerializeToString(), own)
    _show(twin, proto, tensors)
    content = twin.SerializeToString(deterministic=True)
    request = EngineRequest.of_bytes(content, table.deployment_id, precision=precision, max_batch=_ROWS)
    with open_engine(engine, request) as runner:
        yield CanaryTwin(runner, own, proto.graph.input[0].name, image, tensors)


def in_rows(faults: Sequence[LoudFault]) -> Iterator[tuple[int, Sequence[LoudFault]]]:
    """The faults as many at a time as a twin takes, with the number of the first."""
    for start in range(0, len(faults), _ROWS - 1):
        yield start, faults[start : start + _ROWS - 1]


def _show(twin: ModelProto, proto: ModelProto, tensors: Sequence[str]) -> None:
    """Add the tensors to the outputs, numbers as float32."""
    made = {name for node in proto.graph.node for name in node.output}
    if missing := [name for name in tensors if name not in made]:
        raise TestbedError(f"the protected file has no tensor {missing[0]!r} that a canary could be seen in")
    types = _element_types(proto)
    for number, name in enumerate(tensors):
        element = types[name] if types[name] == TensorProto.BOOL else TensorProto.FLOAT
        shown = f"{_WATCHED}{number}"
        twin.graph.node.append(helper.make_node("Cast", [name], [shown], name=shown, to=element))
        twin.graph.output.append(helper.make_tensor_value_info(shown, element, None))


def _element_types(proto: ModelProto) -> dict[str, int]:
    typed = onnx.shape_inference.infer_shapes(proto).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*typed.value_info, *typed.output)}
