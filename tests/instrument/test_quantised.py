"""Quantised files of whatever kind: what they compute in is seen, their twins load, faults strike the stored integers.

Oracle: the file before it was quantised (names, parameters), NumPy's words (what a fault makes of an integer).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.compat.exporters import quiet
from testbed.core.site import Site, SiteTable
from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.feed import NO_SITE, PortFeed, live_words, to_words
from testbed.instrument.ports.insertion import ELEMENTS, instrument
from testbed.instrument.quantised import number_format_of, parameters, stored_weights
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import site_table
from tests.support.exporters import calibration_of, randomised, written
from tests.support.libraries import LIBRARIES, SITES, imported

IMAGES = np.random.default_rng(2).standard_normal((3, 3, 16, 16)).astype(np.float32)
Quantise = Callable[[Path, Path], None]


def statically(activations: str, weights: str, style: str = "QDQ", **extra: Any) -> Quantise:
    def quantise(source: Path, target: Path) -> None:
        library = imported("onnxruntime.quantization")

        kinds = {
            "activation_type": getattr(library.QuantType, activations),
            "weight_type": getattr(library.QuantType, weights),
        }
        form = getattr(library.QuantFormat, style)
        library.quantize_static(
            str(source), str(target), calibration_of(IMAGES), quant_format=form, extra_options=extra, **kinds
        )

    return quantise


def dynamically(**options: Any) -> Quantise:
    return lambda source, target: imported("onnxruntime.quantization").quantize_dynamic(source, target, **options)


def in_blocks(source: Path, target: Path) -> None:
    library = imported("onnxruntime.quantization.matmul_nbits_quantizer")
    quantiser = library.MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=True)
    quantiser.process()
    quantiser.model.save_model_to_file(str(target))


KINDS: dict[str, tuple[Quantise, str, str]] = {  # and the formats of a block's activations and weights
    "uint8": (statically("QUInt8", "QUInt8"), "uint8", "uint8"),
    "uint8 and int8": (statically("QUInt8", "QInt8"), "uint8", "int8"),
    "int16": (statically("QInt16", "QInt8"), "int16", "int8"),
    "com.microsoft's": (statically("QInt8", "QInt8", UseQDQContribOps=True), "int8", "int8"),
    "com.microsoft's uint16": (statically("QUInt16", "QUInt8", UseQDQContribOps=True), "uint16", "uint8"),
    "operators on integers": (statically("QUInt8", "QInt8", "QOperator"), "uint8", "int8"),
    "at run time": (dynamically(), "fp32", "int8"),
    "at run time, by channel": (dynamically(per_channel=True), "fp32", "int8"),
    "weights of 4 bits": (statically("QInt8", "QInt4"), "int8", ""),
    "packed in blocks": (in_blocks, "fp32", ""),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = randomised(LIBRARIES["timm"].model())
    return written(model, tmp_path_factory.mktemp("quantised") / "vit.onnx", "torchscript")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(kind: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("quantised") / "vit.onnx"
    with quiet():
        KINDS[kind][0](source, file)
    return adopt(file).plain


def test_tensors_without_a_number_are_no_weights() -> None:
    """vit-pytorch stores a class token of (0, D) where there is none."""
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in (("none", (0, 8)), ("some", (1, 8)))
    ]
    graph = helper.make_graph([], "g", [], [], weights)
    assert [tensor.name for tensor in stored_weights(helper.make_model(graph))] == ["some"]


def test_the_formats_are_those_that_are_stored(kind: str, plain: bytes) -> None:
    _, activation, weight = KINDS[kind]
    found = catalogue(plain)
    sites = {site.name: site for site in found.recognised}
    assert sites.keys() | found.missing.keys() >= SITES
    for name in ("block.0.norm1", "block.1.attn.proj", "block.1.mlp.fc2"):
        assert sites[name].format_name == activation, name
    for name in ("block.0.attn.qkv.weight", "block.1.mlp.fc1.weight"):
        if weight:
            assert (sites[name].format_name, sites[name].shape) == (weight, (96, 32) if "qkv" in name else (128, 32))
        else:
            assert name not in sites
            assert "stored as int4" in found.missing[name] or "packed in blocks" in found.missing[name]


def test_the_parameters_are_the_models(kind: str, plain: bytes, source: Path) -> None:
    assert parameters(onnx.load_from_string(plain)) == parameters(onnx.load(source))


def test_the_twin_loads_and_is_the_file_bit_for_bit(session: Any, plain: bytes) -> None:
    table = site_table(plain, "model")
    twin = session(instrument(plain, table).SerializeToString(), optimised=False)
    found = twin({"images": IMAGES, **PortFeed.idle(3).as_inputs(table)})["logits"]
    np.testing.assert_array_equal(found, session(plain, optimised=False)({"images": IMAGES})["logits"])


def with_outputs(proto: ModelProto, sites: list[Site]) -> bytes:
    known = {output.name for output in proto.graph.output}
    for site in sites:
        if site.tensor not in known:
            value = helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], None)
            proto.graph.output.append(value)
    return proto.SerializeToString()


def test_a_fault_is_in_the_stored_word(session: Any, plain: bytes) -> None:
    table = site_table(plain, "model")
    sites = [table[name] for name in ("block.0.norm1", "block.1.attn.context", "block.1.mlp.fc2")]
    golden = session(with_outputs(onnx.load_from_string(plain), sites), optimised=False)({"images": IMAGES})
    twin = session(with_outputs(instrument(plain, table), sites), optimised=False)
    for site in sites:
        bit, index = site.format.bits - 2, 7
        words = to_words(golden[site.tensor].reshape(3, -1)[:, index])
        port = np.array([NO_SITE, table.ports[site.name], NO_SITE])
        none = np.zeros(3, np.uint32)
        feed = PortFeed(port, np.full(3, index), ~none, none, none | np.uint32(1 << bit), words)
        found = twin({"images": IMAGES, **feed.as_inputs(table)})
        wanted: NDArray = golden[site.tensor].copy()
        faulty = wanted.reshape(3, -1)[1:2, index : index + 1]
        faulty[:] = (to_words(faulty) ^ np.uint32(1 << bit)).astype(site.format.word).view(faulty.dtype)
        np.testing.assert_array_equal(found[site.tensor], wanted)
        assert live_words(found, table, port[:, None])[1, 0] == words[1]


def table_of(*formats: tuple[str, str]) -> SiteTable:
    sites = (Site(f"s{n}", where, (4,), name) for n, (where, name) in enumerate(formats))  # type: ignore[arg-type]
    return SiteTable("model", "id", "gated_replace", tuple(sites))


@pytest.mark.parametrize(
    ("formats", "told", "precisions"),
    [
        ([("activation", "fp32"), ("weight", "fp32")], "fp32", ("fp32",)),
        ([("activation", "fp32"), ("activation", "fp16"), ("weight", "fp16")], "fp16", ("fp16",)),
        ([("activation", "fp32"), ("activation", "uint8"), ("weight", "uint8")], "uint8", ("int8",)),
        ([("activation", "int8"), ("weight", "int32")], "int8", ("int8",)),
        ([("activation", "fp32"), ("weight", "int8")], "fp32 with int8 weights", ("int8", "fp32")),
        ([("activation", "int16"), ("weight", "int8")], "int16", ()),
    ],
)
def test_what_a_campaign_takes_a_file_for(formats: Any, told: str, precisions: tuple[str, ...]) -> None:
    assert number_format_of(table_of(*formats)) == (told, precisions)


def test_a_tensor_with_two_quantised_copies_is_injected_before_them(source: Path, tmp_path: Path) -> None:
    with quiet():
        statically("QInt8", "QInt8", DedicatedQDQPair=True)(source, tmp_path / "vit.onnx")
    sites = {site.name: site for site in catalogue(adopt(tmp_path / "vit.onnx").plain).recognised}
    assert sites["embed"].format_name == "fp32"  # a block's norm takes one copy, the residual addition another
    assert sites["block.0.norm1"].format_name == "int8"


def test_every_integer_format_of_a_file_has_ports() -> None:
    kinds = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}
    assert kinds <= set(ELEMENTS.values())
