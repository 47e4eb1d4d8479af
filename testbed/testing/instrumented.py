"""An ONNX file with its twin and site table, ready to be opened in any engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from testbed.core.fault import Masks
from testbed.core.site import SiteTable
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.instrument.ports.feed import GATED_REPLACE, PortFeed, feed_sites, live_words, to_words
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.shapes import input_name, output_name
from testbed.instrument.table import deployment_id, site_table

BuildRunner = Callable[[EngineRequest], Runner]
"""Builds an engine: a runner class, or `functools.partial(open_engine, "ort-cpu")`."""


@dataclass(frozen=True, eq=False)
class InstrumentedModel:
    """A plain ONNX file, its twin with fault ports, and its sites. `of_onnx` makes one.

    Attributes:
        plain: The file as it would be deployed.
        twin: The same with fault ports.
        sites: Every tensor that faults can be injected into.
        precision: Number format of the file.
    """

    plain: bytes
    twin: bytes
    sites: SiteTable
    precision: str = "fp32"

    @classmethod
    def of_onnx(
        cls,
        onnx: bytes,
        target: str = "model",
        precision: str = "fp32",
        *,
        ports: str = GATED_REPLACE,
        most_ports: int | None = None,
    ) -> Self:
        """Instrument a file.

        Args:
            onnx: Content of the file.
            target: "model", or "attention" for an attention module alone.
            precision: Number format of the file; it is recorded, never converted to.
            ports: How values are changed: "gated_replace", "xor" or "op".
            most_ports: Give ports to so many activations at most, evenly spread. Default: to all.

        Returns:
            The model.

        Example:
            ```py
            model = InstrumentedModel.of_onnx(Path("runs/digits/model.onnx").read_bytes())
            with model.open_twin("ort-cpu") as twin:
                print(twin.run(model.feeds(images)))
            ```
        """
        table = site_table(onnx, target, ports)
        activations = [site for site in table if site.where == "activation"]
        if most_ports is not None and most_ports < len(activations):
            spread = np.linspace(0, len(activations) - 1, most_ports).round().astype(int)
            table = replace(table, sites=tuple(activations[number] for number in spread))
        return cls(onnx, instrument(onnx, table).SerializeToString(deterministic=True), table, precision)

    @property
    def input_name(self) -> str:
        """Name of the input for images."""
        return input_name(self.plain)

    @property
    def output_name(self) -> str:
        """Name of the output that outcomes are judged by."""
        return output_name(self.plain)

    def open_plain(self, engine: str | BuildRunner, **options: Any) -> Runner:
        """Open the plain file in an engine, by name or runner class; options are those of `EngineRequest`."""
        return _build(engine)(self._request(self.plain, **options))

    def open_twin(self, engine: str | BuildRunner, **options: Any) -> Runner:
        """Open the twin in an engine, by name or runner class; options are those of `EngineRequest`."""
        return _build(engine)(self._request(self.twin, **options))

    def feeds(self, images: NDArray, faults: PortFeed | None = None) -> dict[str, NDArray]:
        """What a twin is fed: images, and a fault per row; without faults it computes what the plain file does."""
        ports = PortFeed.idle(len(images)) if faults is None else faults
        return {self.input_name: images, **ports.as_inputs(self.sites)}

    def fault(self, site: str, index: NDArray[np.int64], masks: Masks, golden: NDArray) -> PortFeed:
        """One fault per row in an activation.

        Args:
            site: Name of the tensor.
            index: Flat index of an element, for each row.
            masks: What is done to its bits; see `masks_for`.
            golden: What the elements hold without the fault, for each row.

        Returns:
            The faults, for `feeds`.
        """
        keep, put, turn = (np.full(len(index), mask, np.uint32) for mask in masks)
        ports = feed_sites(self.sites, [site] * len(index))
        return PortFeed(ports, np.asarray(index, np.int64), keep, put, turn, to_words(golden))

    def port_numbers(self, sites: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of the ports of these activations, as `PortFeed` takes them."""
        return feed_sites(self.sites, sites)

    def live_words(self, outputs: Mapping[str, NDArray], faults: PortFeed) -> NDArray[np.uint32]:
        """Read from a twin's outputs the bits that the elements held before the faults, (rows, points)."""
        return live_words(outputs, self.sites, faults.site)

    def _request(self, onnx: bytes, **options: Any) -> EngineRequest:
        request = EngineRequest.of_bytes(onnx, deployment_id(self.plain), precision=self.precision)
        return replace(request, **options)


def _build(engine: str | BuildRunner) -> BuildRunner:
    return partial(open_engine, engine) if isinstance(engine, str) else engine
