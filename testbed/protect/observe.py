"""What tensors of a file hold without a fault: run on real images, on the engines that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from testbed.core.arrays import Float32s, Float64s
from testbed.data import Split
from testbed.engines.batches import pad_values
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.protect.graph import GraphEditor

_BATCH = 8
ImageSource = Float32s | Split
"""Images (n, C, S, S), or a split that is read batch by batch."""


@dataclass(frozen=True)
class Extremes:
    """Smallest, largest and mean value of a tensor, per image: (n,) each."""

    low: Float64s
    high: Float64s
    mean: Float64s


def run_all(
    proto: ModelProto, images: ImageSource, engine: str, precision: str, batch: int = _BATCH
) -> dict[str, NDArray]:
    """Every output of a file for all images: name -> (n, ...). Raises EngineError where the engine refuses the file."""
    with opened(proto, engine, precision, batch) as runner:
        return outputs_of(runner, proto.graph.input[0].name, images, batch)


@contextmanager
def opened(
    proto: ModelProto, engine: str, precision: str, batch: int = _BATCH, mutable: bool = False
) -> Iterator[Runner]:
    """An engine of the file, for as long as the block lasts."""
    request = EngineRequest.of_bytes(
        proto.SerializeToString(), "", precision=precision, max_batch=batch, mutable_weights=mutable
    )
    with open_engine(engine, request) as runner:
        yield runner


def outputs_of(
    runner: Runner, name: str, images: ImageSource, batch: int, also: Mapping[str, NDArray] | None = None
) -> dict[str, NDArray]:
    """All outputs, the images in batches of one size. also: further feeds, the same for every batch."""
    parts: list[dict[str, NDArray]] = []
    for some in _chunks(images, batch):
        results = runner.run({name: pad_values(some, batch, some[0]), **(also or {})})
        parts.append({key: np.array(value[: len(some)]) for key, value in results.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _chunks(images: ImageSource, batch: int) -> Iterator[Float32s]:
    if isinstance(images, Split):
        yield from (some for some, _ in images.batches(batch))
    else:
        yield from (images[start : start + batch] for start in range(0, len(images), batch))


def extremes(
    proto: ModelProto, tensors: Sequence[str], images: ImageSource, engine: str, precision: str
) -> dict[str, Extremes]:
    """Extremes of tensors, found by reductions inside the engine, so that no tensor has to leave it."""
    graph = GraphEditor(proto)
    names: dict[str, list[str]] = {}
    for number, tensor in enumerate(dict.fromkeys(tensors)):
        wide = graph.wide(tensor, "protect.observe")
        flat = graph.add("Flatten", [wide], f"protect.observe.{number}.flat", axis=1)
        names[tensor] = [
            graph.reduce(op, flat, (1,), f"protect.observe.{number}.{op}", keepdims=0)
            for op in ("ReduceMin", "ReduceMax", "ReduceMean")
        ]
    for outputs in names.values():
        for output in outputs:
            graph.proto.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"]))
    results = run_all(graph.finished(), images, engine, precision)
    return {
        tensor: Extremes(*(results[output].astype(np.float64) for output in outputs))
        for tensor, outputs in names.items()
    }


def values(
    proto: ModelProto, tensors: Sequence[str], images: ImageSource, engine: str, precision: str, batch: int = _BATCH
) -> dict[str, NDArray]:
    """Small float32 tensors themselves, for all images: tensor -> (n, ...)."""
    return run_all(_watching(proto, tensors), images, engine, precision, batch)


def _watching(proto: ModelProto, tensors: Sequence[str]) -> ModelProto:
    watched = ModelProto()
    watched.CopyFrom(proto)
    there = {value.name for value in watched.graph.output}
    typed = {value.name: value for value in watched.graph.value_info}
    watched.graph.output.extend(typed[name] for name in tensors if name not in there)
    return watched


def twin_values(
    proto: ModelProto, tensors: Sequence[str], images: ImageSource, engine: str, precision: str, batch: int = _BATCH
) -> dict[str, NDArray]:
    """What `values` gives, of the file's twin without a fault: engines fuse less between its ports."""
    watched = _watching(proto, tensors)
    plain = watched.SerializeToString()
    table = site_table(plain, "model")
    twin = instrument(plain, table)
    idle = PortFeed.idle(batch).as_inputs(table)
    with opened(twin, engine, precision, batch) as runner:
        return outputs_of(runner, proto.graph.input[0].name, images, batch, idle)
