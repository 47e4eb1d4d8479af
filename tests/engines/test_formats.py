"""Faults in every number format, in every engine that this machine has: the very bits, in ports and in weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from testbed.core.errors import EngineError, UsageError
from testbed.core.fault import masks_for
from testbed.core.site import Site, SiteTable
from testbed.engines import native
from testbed.engines.backends import BACKENDS, available, precisions_of
from testbed.engines.onnxruntime.cpu import PROVIDER, OrtCpuRunner, session, session_options
from testbed.engines.runner import Runner, faulty_weight, open_engine
from testbed.engines.signature import signature_of
from testbed.export.onnx import export_onnx
from testbed.export.precision import Calibration, cast_model, quantise
from testbed.instrument.ports.feed import DTYPES, MECHANISMS, NO_SITE, PortFeed, live_words
from testbed.instrument.ports.insertion import ELEMENTS, instrument
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.semantics import as_words
from tests.support.engine_requests import asked

ON_GPU = {"ort-cuda", "torch-cuda", "tensorrt", "tensorrt-rtx"}
PRECISION_OF = {name: name if name in ("fp32", "fp16", "bf16") else "int8" for name in ELEMENTS}
NOT_IN_OP = ("int16", "uint16")
STANDARD_OPS_20 = {"openvino", "tensorrt", "tensorrt-rtx"}  # no BitCast, no operator of ours
ROWS, WIDTH = 3, 8
# Quiet and signalling NaNs with payloads, infinities, both zeros, the smallest denormals.
CORNERS = {
    4: [0x7FC00001, 0xFFC12345, 0x7F800001, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x80000001, 0x007FFFFF],
    2: [0x7E01, 0xFF81, 0x7C01, 0x7C00, 0xFC00, 0, 0x8000, 1, 0x8001, 0x03FF, 0x7F81, 0x7F80, 0xFF80],
    1: [0, 0x80, 0xFF, 0x7F, 1],
}


# ---- ports


def copies(format_name: str) -> tuple[bytes, tuple[Site, ...]]:
    """x -> first -> second, each a copy, in a format; both can be struck."""
    nodes = [helper.make_node("Identity", ["x"], ["first"]), helper.make_node("Identity", ["first"], ["second"])]
    x, y = (helper.make_tensor_value_info(name, ELEMENTS[format_name], ["b", WIDTH]) for name in ("x", "second"))
    graph = helper.make_graph(nodes, "copies", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    sites = (Site(name, "activation", (WIDTH,), format_name, name) for name in ("first", "second"))
    return model.SerializeToString(), tuple(sites)


def twin_of(format_name: str, mechanism: str) -> tuple[bytes, SiteTable]:
    plain, sites = copies(format_name)
    table = SiteTable("model", "deployment", mechanism, sites)
    return instrument(plain, table).SerializeToString(), table


def takes(backend: str, mechanism: str) -> bool:
    if backend == "ort-cuda":
        return mechanism != "xor"  # its CUDA provider has no bitwise operators
    return mechanism == "gated_replace" or backend not in STANDARD_OPS_20


PORTS = [
    pytest.param(
        (backend, mechanism, name),
        marks=[pytest.mark.gpu] if backend in ON_GPU else [],
        id=f"{backend}-{mechanism}-{name}",
    )
    for backend in BACKENDS
    for mechanism in MECHANISMS
    for name in DTYPES
    if takes(backend, mechanism)
    and not (mechanism == "op" and name in NOT_IN_OP)
    and PRECISION_OF[name] in precisions_of(backend)
]


@pytest.fixture(scope="module", params=PORTS)
def port(request: pytest.FixtureRequest) -> Iterator[tuple[SiteTable, Runner, np.dtype]]:
    """A twin of copies with two ports, its table, and the type of what it copies."""
    backend, mechanism, name = request.param
    usable, reason = available(backend)
    if not usable:
        pytest.skip(f"{backend}: {reason}")
    if mechanism == "op" and backend.startswith("ort") and native.op_library() is None:
        pytest.skip("the ONNX Runtime op was not built")
    twin, table = twin_of(name, mechanism)
    with open_engine(backend, asked(twin, precision=PRECISION_OF[name])) as runner:
        if backend == "openvino" and str(runner.info.options["arithmetic"]).startswith("emulated"):
            pytest.skip(f"without instructions for {name}, OpenVINO widens it, which quiets signalling NaNs")
        yield table, runner, DTYPES[name]


def word_of(width: int) -> st.SearchStrategy[int]:
    return st.sampled_from(CORNERS[width]) | st.integers(0, 2 ** (8 * width) - 1)


@settings(max_examples=25)
@given(st.data())
def test_a_port_does_exactly_what_the_masks_say(port: tuple[SiteTable, Runner, np.dtype], data: st.DataObject) -> None:
    """v' = ((v & and) | or) ^ xor on Python's integers, for a batch of different faults; all other bits stay."""
    table, twin, dtype = port
    a_word = word_of(dtype.itemsize)

    def drawn(what: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(what, min_size=ROWS, max_size=ROWS))

    held = drawn(st.lists(a_word, min_size=WIDTH, max_size=WIDTH))
    site, index = drawn(st.sampled_from([NO_SITE, 0, 1])), drawn(st.integers(0, WIDTH - 1))
    and_mask, or_mask, xor_mask = drawn(a_word), drawn(a_word), drawn(a_word)
    golden = [row[place] for row, place in zip(held, index, strict=True)]
    faulty = [row for row in range(ROWS) if site[row] != NO_SITE]
    expected = [list(row) for row in held]
    for row in faulty:
        expected[row][index[row]] = ((golden[row] & and_mask[row]) | or_mask[row]) ^ xor_mask[row]

    words = [np.array(column, np.uint32) for column in (and_mask, or_mask, xor_mask, golden)]
    feed = PortFeed(np.array(site, np.int64), np.array(index, np.int64), *words)
    x = np.array(held, f"uint{8 * dtype.itemsize}").view(dtype)
    found = twin.run({"x": x, **feed.as_inputs(table)})

    assert found["second"].dtype == dtype
    assert as_words(found["second"]).tolist() == expected
    live = live_words(found, table, feed.site)
    assert [live[row, 0] for row in faulty] == [golden[row] for row in faulty]


@settings(max_examples=25)
@given(st.data())
def test_a_port_changes_several_elements_of_a_row(
    port: tuple[SiteTable, Runner, np.dtype], data: st.DataObject
) -> None:
    """Each row its own number of distinct elements; by the op also at several sites, the later of which see what the
    earlier made of their values. On Python's integers, element after element."""
    table, twin, dtype = port
    a_word = word_of(dtype.itemsize)
    points = data.draw(st.integers(1, WIDTH), label="points")
    held = data.draw(st.lists(st.lists(a_word, min_size=WIDTH, max_size=WIDTH), min_size=ROWS, max_size=ROWS))
    site, index = np.full((ROWS, points), NO_SITE), np.zeros((ROWS, points), np.int64)
    masks = np.zeros((3, ROWS, points), np.uint32)
    golden, found_there = np.zeros((ROWS, points), np.uint32), np.zeros((ROWS, points), np.uint32)
    expected = [list(row) for row in held]
    for row in range(ROWS):
        used = data.draw(st.lists(st.integers(0, points - 1), max_size=points, unique=True))
        one_site = data.draw(st.sampled_from([0, 1]))
        site[row, used] = [data.draw(st.sampled_from([0, 1])) if table.mechanism == "op" else one_site for _ in used]
        index[row, used] = data.draw(st.permutations(range(WIDTH)))[: len(used)]
        for k in sorted(used, key=lambda k: site[row, k]):
            place = index[row, k]
            golden[row, k], found_there[row, k] = held[row][place], expected[row][place]
            keep, put, turn = masks[:, row, k] = [data.draw(a_word) for _ in range(3)]
            expected[row][place] = int(((expected[row][place] & keep) | put) ^ turn)

    feed = PortFeed(site, index, masks[0], masks[1], masks[2], golden)
    x = np.array(held, f"uint{8 * dtype.itemsize}").view(dtype)
    found = twin.run({"x": x, **feed.as_inputs(table)})

    assert as_words(found["second"]).tolist() == expected
    faulty = site != NO_SITE
    assert live_words(found, table, site)[faulty].tolist() == found_there[faulty].tolist()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_several_sites_in_one_inference_need_the_op(mechanism: str) -> None:
    _, table = twin_of("fp32", mechanism)
    word = np.full((1, 2), 7, np.uint32)
    feed = PortFeed(np.array([[0, 1]]), np.array([[0, 3]]), word, word, word, word)
    if mechanism == "op":
        assert feed.as_inputs(table)["fault_site"].tolist() == [[0, 1]]
        return
    with pytest.raises(UsageError, match=r"several sites \(first, second\) .* set engine\.ports = 'op'"):
        feed.as_inputs(table)


def test_two_points_of_a_fault_at_one_element_are_a_mistake_of_the_caller() -> None:
    _, table = twin_of("fp32", "gated_replace")
    word = np.full((1, 3), 7, np.uint32)
    feed = PortFeed(np.array([[0, NO_SITE, 0]]), np.array([[3, 0, 3]]), word, word, word, word)
    with pytest.raises(ValueError, match="combine their masks"):
        feed.as_inputs(table)


@pytest.mark.parametrize(("mechanism", "named"), [("xor", "BitCast"), ("op", "testbed.FaultPort")])
def test_ports_that_openvino_does_not_take_are_refused_in_one_line(mechanism: str, named: str) -> None:
    usable, reason = available("openvino")
    if not usable:
        pytest.skip(reason)
    twin, _ = twin_of("fp32", mechanism)
    with pytest.raises(EngineError, match=f"OpenVINO cannot build this model: .*{named}") as caught:
        open_engine("openvino", asked(twin))
    assert "\n" not in str(caught.value)


# ---- weights, and the whole model

IMAGES = np.random.default_rng(0).standard_normal((32, 1, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """A small model's plain ONNX in a precision, as this project exports it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ViTConfig(image=4, patch=2, channels=1, width=16, heads=(2,), mlp=(24,), classes=10, head_width=8)
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    fp32 = export_onnx(ViT(config).eval(), torch.from_numpy(IMAGES[:2]), file, input_name="image")

    @cache
    def lower(precision: str) -> bytes:
        if precision == "int8":
            return quantise(fp32, IMAGES, Calibration(len(IMAGES))).SerializeToString()
        return (fp32 if precision == "fp32" else cast_model(fp32, precision)).SerializeToString()

    return lower


LOWERED = [
    pytest.param(
        (backend, precision), marks=[pytest.mark.gpu] if backend in ON_GPU else [], id=f"{backend}-{precision}"
    )
    for backend in BACKENDS
    for precision in precisions_of(backend)
]


@pytest.fixture(scope="module", params=LOWERED)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(backend, precision)"""
    backend, precision = request.param
    usable, reason = available(backend)
    if not usable:
        pytest.skip(f"{backend}: {reason}")
    return backend, precision


@pytest.fixture(scope="module")
def injector(case: tuple[str, str], lowered: Callable[[str], bytes]) -> Iterator[Any]:
    backend, precision = case
    with open_engine(backend, asked(lowered(precision), precision=precision, mutable_weights=True)) as runner:
        yield runner


def only_output(runner: Runner) -> NDArray[np.float32]:
    (output,) = runner.run({"image": IMAGES[:4]}).values()
    return output


def test_it_computes_the_model_in_every_precision(
    case: tuple[str, str], lowered: Callable[[str], bytes], injector: Any
) -> None:
    backend, precision = case
    bound = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2, "int8": 8e-2}[precision]
    with open_engine("torch", asked(lowered("fp32"))) as reference:
        expected = only_output(reference)
    with open_engine(backend, asked(lowered(precision), precision=precision)) as runner:
        assert runner.info.precision == precision
        own_kernels = backend == "openvino" and precision == "int8"  # whose sums saturate on CPUs without VNNI
        np.testing.assert_allclose(only_output(runner), expected, rtol=0, atol=0.5 if own_kernels else bound)
    np.testing.assert_allclose(only_output(injector), expected, rtol=0, atol=bound)


def test_weights_of_every_format_act_and_are_restored(
    case: tuple[str, str], lowered: Callable[[str], bytes], injector: Any
) -> None:
    backend, precision = case
    sites = site_table(lowered(precision), "model").select("weight", ["*"])
    golden = only_output(injector)
    stored = {site.tensor: injector.weight(site.tensor).tobytes() for site in sites}
    ignored = {site.name for site in sites if not acts(injector, site, golden)}
    allowed = {site.name for site in sites if site.name.endswith("zero_point")}  # their steps may all be clipped
    if backend.startswith("ort") and precision == "int8":
        allowed |= {"head.bias.scale"}  # QGemm takes its bias at the product of the other scales
    assert ignored <= allowed
    assert len(ignored) <= len(sites) // 8
    assert only_output(injector).tobytes() == golden.tobytes()
    assert {name: injector.weight(name).tobytes() for name in stored} == stored


def acts(injector: Any, site: Site, golden: NDArray[np.float32]) -> bool:
    """Whether a loud fault in one of a few elements changes the output."""
    loud = masks_for("flip", site.format, site.format.bits - 2)
    for index in np.random.default_rng(0).integers(0, site.elements, 6):
        with faulty_weight(injector, site.tensor, site.stored_index(int(index)), loud) as (before, after):
            assert before.dtype == DTYPES[site.format_name]
            assert as_words(before)[0] ^ as_words(after)[0] == loud.xor_mask
            if only_output(injector).tobytes() != golden.tobytes():
                return True
    return False


def test_fp16_on_the_cpu_provider_is_labelled_emulated(lowered: Callable[[str], bytes]) -> None:
    labels = {}
    for precision in ("fp32", "fp16", "int8"):
        with open_engine("ort-cpu", asked(lowered(precision), precision=precision)) as runner:
            labels[precision] = runner.info.options["arithmetic"]
    assert labels == {"fp32": "fp32", "fp16": "emulated in fp32", "int8": "int8"}


def test_a_twin_of_int8_is_fused_as_the_engine_that_is_deployed(
    lowered: Callable[[str], bytes], tmp_path: Path
) -> None:
    """By the operators in the graphs that ONNX Runtime saves: a matrix product in integers is one in both."""
    plain = lowered("int8")
    table = site_table(plain, "model")
    counts = []
    for model in (plain, instrument(plain, table).SerializeToString()):
        request = asked(model, precision="int8")
        options = session_options(request)
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        session(model, options, [PROVIDER])
        operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        counts.append({name: operators[name] for name in ("MatMul", "QLinearMatMul", "QGemm", "Gemm", "QLinearConv")})
    of_plain, of_twin = counts
    assert of_twin == of_plain
    assert (
        of_plain["QLinearMatMul"] >= 6
    )  # of one block: q, k and v in one, scores, context, projection, two of the MLP
    assert of_plain["MatMul"] == 0


def test_a_row_of_fp16_has_the_same_bits_in_every_place_of_the_batch(lowered: Callable[[str], bytes]) -> None:
    """Softmax over 5 tokens: added up in an order that depends on where a row lies, it would differ."""
    twin = instrument(lowered("fp16"), table := site_table(lowered("fp16"), "model")).SerializeToString()
    images = np.random.default_rng(1).standard_normal((64, *IMAGES.shape[1:])).astype(np.float32)
    with open_engine("ort-cpu", asked(twin, precision="fp16")) as runner:

        def outputs(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            found = runner.run({"image": images[rows], **PortFeed.idle(len(rows)).as_inputs(table)})
            return found[signature_of(onnx.load_from_string(twin)).outputs[0]]

        golden = outputs(np.arange(64))
        for seed in range(8):
            order = np.random.default_rng(seed).permutation(64)
            assert outputs(order).tobytes() == golden[order].tobytes()


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_ports_of_engines_that_widen_the_graph_hold_numbers_of_the_format(name: str) -> None:
    """By NumPy's own rounding of random words of fp32 and of every edge; OpenVINO's Round makes -0 a 0."""
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=ELEMENTS[name]),
        helper.make_node("Identity", ["narrow"], ["y/live"]),
        helper.make_node("Cast", ["y/live"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["fault_site"], ["site"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b"])]
    inputs.append(helper.make_tensor_value_info("fault_site", TensorProto.INT64, ["b"]))
    outputs = [helper.make_tensor_value_info(made, TensorProto.FLOAT, ["b"]) for made in ("y", "site")]
    graph = helper.make_graph(nodes, "rounding", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    rng = np.random.default_rng(0)
    edges = [0, np.inf, -np.inf, np.nan, 65519, 65520, -65521, 1e-7, 6e-8, 1e-40, 3.39e38, -3.4e38, 2049, 2051]
    x = np.concatenate(
        [
            rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32),
            (rng.normal(size=100_000) * 10.0 ** rng.integers(-9, 6, 100_000)).astype(np.float32),
            np.array(edges, np.float32),
        ]
    )
    with np.errstate(all="ignore"):
        expected = x.astype(DTYPES[name]).astype(np.float32)
    with open_engine("openvino", asked(model, precision=name)) as runner:
        if not str(runner.info.options["arithmetic"]).startswith("emulated"):
            pytest.skip(f"this CPU computes {name} itself")
        found = runner.run({"x": x, "fault_site": np.zeros(len(x), np.int64)})["y"]
    np.testing.assert_array_equal(found, expected)  # takes -0 for 0, and NaN for NaN


def test_bf16_is_not_offered_on_the_cpu_provider_because_it_has_no_kernels(lowered: Callable[[str], bytes]) -> None:
    with pytest.raises(UsageError, match="'ort-cpu' does not offer 'bf16'"):
        open_engine("ort-cpu", asked(lowered("bf16"), precision="bf16"))
    with pytest.raises(EngineError, match="Could not find an implementation for"):
        OrtCpuRunner(asked(lowered("bf16"), precision="bf16"))


def test_initializers_that_shape_the_graph_are_no_weights(lowered: Callable[[str], bytes], injector: Any) -> None:
    proto = onnx.load_from_string(lowered("fp32"))
    for name in (t.name for t in proto.graph.initializer if t.data_type == TensorProto.INT64):
        with pytest.raises(EngineError, match="cannot be struck"):
            injector.weight(name)
