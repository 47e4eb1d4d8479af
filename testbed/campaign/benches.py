"""Engines of a campaign, with their inputs; and the golden value of every element that a plan strikes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, helper

from testbed.campaign.execute import Bench
from testbed.campaign.plan import Leg
from testbed.campaign.prepare import Files, Preparation
from testbed.core.site import SiteTable
from testbed.engines.runner import EngineRequest, Runner, open_engine, request_from
from testbed.instrument.feed import PortFeed, Words, feed_sites, to_words
from testbed.instrument.ports import ELEMENTS
from testbed.instrument.shapes import inputs_of

_PROBE_BYTES = 256 * 2**20


def open_bench(preparation: Preparation, target: str, where: str) -> Bench:
    """Activation faults run in the twin, weight faults in the plain engine with weights that can be struck."""
    files = Files(target)
    table = preparation.table(target)
    request = engine_request(
        preparation, target, files.twin if where == "activation" else files.plain, where == "weight"
    )

    def reopen() -> Runner:
        return open_engine(preparation.spec.engine.backend, request)

    return Bench(
        target=target,
        table=table,
        runner=reopen(),
        reopen=reopen,
        inputs=preparation.inputs(target),
        input_name=input_name(request.onnx),
        output_name=output_name(request.onnx),
        images=preparation.images,
        batch=preparation.spec.engine.batch,
    )


def engine_request(preparation: Preparation, target: str, file: str, mutable_weights: bool = False) -> EngineRequest:
    engine = preparation.spec.engine
    return request_from(
        preparation.folder / file,
        preparation.table(target).deployment_id,
        precision=engine.precision,
        threads=engine.threads,
        mutable_weights=mutable_weights,
        max_batch=engine.batch,
    )


def input_name(model: bytes) -> str:
    """Of what the target is fed; the ports' inputs follow it."""
    return str(inputs_of(onnx.load_from_string(model))[0].name)


def output_name(model: bytes) -> str:
    return str(onnx.load_from_string(model).graph.output[0].name)


def golden_words(bench: Bench, leg: Leg, backend: str, twin: EngineRequest) -> Words:
    """(faults,) bits of the engine's own value at each struck element of its image, without the fault.

    The campaign checks against every row's live value that these are the same bits.
    """
    if twin.precision == "fp32":
        return _probed(bench, leg, backend, twin)
    return _read_live(bench, leg)  # in other formats, outputs added to a graph can change where it is rounded


def _read_live(bench: Bench, leg: Leg) -> Words:
    """What the twin itself tells of each element while something is written there: nothing before a port changes."""
    sites, images = feed_sites(bench.table, leg.sites), bench.images.rows(leg.image_ids)
    index, words = leg.column("index"), np.empty(len(leg), np.uint32)
    for start in range(0, len(leg), bench.batch):
        part = slice(start, start + bench.batch)
        feed = PortFeed.writing(sites[part], index[part], np.zeros(len(index[part]), np.uint32))
        _, live = bench.run(images[part], feed)
        assert live is not None
        words[part] = live[:, 0]
    return words


def _probed(bench: Bench, leg: Leg, backend: str, twin: EngineRequest) -> Words:
    """One fault-free pass over the images, through the twin with its live tensors as extra outputs."""
    sites = sorted(set(leg.sites), key=bench.table.ports.__getitem__)
    probe = with_live_outputs(twin.onnx, bench.table, sites)
    words = np.empty(len(leg), np.uint32)
    fault_sites, index = leg.sites, leg.column("index")
    images = bench.images.rows(leg.image_ids)
    by_site = {site: np.flatnonzero(fault_sites == site) for site in sites}
    bytes_per_image = sum(bench.table[site].elements for site in sites) * 4
    chunk = int(np.clip(_PROBE_BYTES // bytes_per_image, 1, bench.batch))
    probe_request = replace(twin, onnx=probe.SerializeToString(), file_sha256="probe")
    with open_engine(backend, probe_request) as runner:
        for start in range(0, len(bench.images), chunk):
            rows = np.arange(start, min(start + chunk, len(bench.images)))
            padded = np.concatenate(
                [rows, np.zeros(chunk - len(rows), np.int64)]
            )  # a small batch may take other kernels
            ports = PortFeed.idle(chunk).as_inputs(bench.table)
            outputs = runner.run({bench.input_name: bench.inputs(padded), **ports})
            for site, faults in by_site.items():
                here = faults[(images[faults] >= start) & (images[faults] <= rows[-1])]
                flat = outputs[f"{bench.table[site].tensor}/live"].reshape(chunk, -1)
                words[here] = to_words(flat[images[here] - start, index[here]])
    return words


def with_live_outputs(twin: bytes, table: SiteTable, sites: list[str]) -> ModelProto:
    """The twin with the tensors before these sites' ports as outputs."""
    proto = onnx.load_from_string(twin)
    for site in map(table.__getitem__, sites):
        shape: list[str | int | None] = ["batch", *site.shape]
        value = helper.make_tensor_value_info(f"{site.tensor}/live", ELEMENTS[site.format_name], shape)
        proto.graph.output.append(value)
    return proto
