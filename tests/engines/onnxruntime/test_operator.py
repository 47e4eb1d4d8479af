"""The ONNX Runtime op against the NumPy reference, bit for bit, through ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from testbed.engines import native
from testbed.semantics import as_words
from tests.engines.conftest import FAULT_INPUTS, FORMATS, PORT, Case, cases, one_fault

FAULT_TYPES = dict(zip(FAULT_INPUTS, [TensorProto.INT64] * 2 + [TensorProto.UINT32] * 3, strict=True))
ELEMENTS = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
}
WORDS = {1: TensorProto.UINT8, 2: TensorProto.UINT16, 4: TensorProto.UINT32}


@pytest.fixture(scope="module", params=["installed", "compiled", "emulated_cuda"])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test that uses it runs with the op as installed, with one built from the sources as they are, and with its
    kernels for the CUDA provider, on the CPU provider and emulated."""
    if request.param == "emulated_cuda":
        folder = request.getfixturevalue("emulated_cuda_build")
        yield str(folder / "testbed_onnxruntime.so")
        return
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "compiled":
            patch.setenv("TESTBED_NATIVE", str(request.getfixturevalue("native_build")))
        usable, reason = native.op_available()
        if request.param == "installed" and not usable:
            pytest.skip(reason)
        assert usable, reason
        yield str(native.op_library())


def port_node(x: str, y: str, current: str, port: int = PORT) -> Any:
    return helper.make_node("FaultPort", [x, *FAULT_INPUTS], [y, current], domain="testbed", port=port)


def session_of(
    library: str,
    nodes: list[Any],
    outputs: Mapping[str, int],
    x: int,
    x_shape: Sequence[str | int | None] | None = ("B", "E"),
    fault_shape: Sequence[str] | None = ("B", "K"),
) -> Any:
    faults = [helper.make_tensor_value_info(name, kind, fault_shape) for name, kind in FAULT_TYPES.items()]
    graph = helper.make_graph(
        nodes,
        "ports",
        [helper.make_tensor_value_info("x", x, x_shape), *faults],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 26), helper.make_opsetid("testbed", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what fails is expected, and raised
    options.register_custom_ops_library(library)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def by_words(library: str, format_name: str, with_other_consumer: bool) -> Any:
    """A port whose x is made inside the graph, where y may take its place, of words of any format that NumPy can feed.

    With another consumer x itself is an output too, and must not change.
    """
    word, element = WORDS[FORMATS[format_name].itemsize], ELEMENTS[format_name]
    cast = {"y": "y_words", "current": "current_words"} | ({"value": "x_words"} if with_other_consumer else {})
    nodes = [
        helper.make_node("BitCast", ["x"], ["value"], to=element),
        port_node("value", "y", "current"),
        *(helper.make_node("BitCast", [a], [b], to=word) for a, b in cast.items()),
    ]
    return session_of(library, nodes, dict.fromkeys(cast.values(), word), word)


def plain_port(library: str, kind: int = TensorProto.FLOAT, **shapes: Any) -> Any:
    return session_of(library, [port_node("x", "y", "current")], {"y": kind, "current": kind}, kind, **shapes)


@pytest.mark.parametrize("with_other_consumer", [False, True])
@pytest.mark.parametrize("format_name", FORMATS)
@settings(max_examples=40)  # of each format by each library
@given(data=st.data())
def test_bit_equal_to_the_reference(
    library: str, format_name: str, with_other_consumer: bool, data: st.DataObject
) -> None:
    case = data.draw(cases(FORMATS[format_name]))
    session = by_words(library, format_name, with_other_consumer)
    y, current, *x_after = session.run(None, {**case.feeds(), "x": as_words(case.x)})
    expected_y, expected_current = case.expected()
    np.testing.assert_array_equal(y, as_words(expected_y))
    np.testing.assert_array_equal(current, as_words(expected_current))
    for x in x_after:
        np.testing.assert_array_equal(x, as_words(case.x))


def test_a_later_port_sees_what_an_earlier_one_did(library: str) -> None:
    nodes = [
        port_node("x", "y1", "current1", port=1),
        helper.make_node("Neg", ["y1"], ["negative"]),
        port_node("negative", "y", "current2", port=2),
    ]
    outputs = dict.fromkeys(["y", "current1", "current2"], TensorProto.FLOAT)
    session = session_of(library, nodes, outputs, TensorProto.FLOAT)
    case = Case(
        np.array([[1, 2]], np.float32),
        np.array([[1, 2, 2]], np.int64),
        np.array([[0, 0, 1]], np.int64),
        np.array([[0, 2**32 - 1, 2**32 - 1]], np.uint32),
        np.array([[0x40E00000, 0, 0]], np.uint32),
        np.array([[0, 1 << 31, 1 << 31]], np.uint32),
    )
    y, current1, current2 = session.run(None, case.feeds())
    np.testing.assert_array_equal(y, [[7, 2]])  # 1 set to 7, negated, sign flipped; 2 negated, sign flipped
    np.testing.assert_array_equal(current1, [[1, 0, 0]])
    np.testing.assert_array_equal(current2, [[0, -7, -2]])


def test_the_input_of_the_graph_is_left_alone(library: str) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = ort.OrtValue.ortvalue_from_numpy(x)
    case = one_fault(x, index=2)
    feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in case.feeds().items()} | {"x": value}
    y, _ = plain_port(library).run_with_ort_values(None, feeds)
    np.testing.assert_array_equal(y.numpy(), case.expected()[0])
    np.testing.assert_array_equal(value.numpy(), np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 12), (2, 1, 1, 12)])
def test_an_index_is_flat_within_the_row(library: str, shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    y, _ = plain_port(library, x_shape=["B", *shape[1:]]).run(None, one_fault(x, index=11, xor=1 << 30).feeds())
    faulty = y.reshape(2, 12)
    np.testing.assert_array_equal(faulty[:, 11], [2, 2])
    assert not faulty[:, :11].any()


@pytest.mark.parametrize("shape", [(0, 4), (3, 4), (2, 0)])
def test_nothing_to_inject(library: str, shape: tuple[int, int]) -> None:
    """No rows, no faults, no elements."""
    x = np.ones(shape, np.float32)
    places, masks = np.zeros((shape[0], 0), np.int64), np.zeros((shape[0], 0), np.uint32)
    case = Case(x, places, places, masks, masks, masks)
    y, current = plain_port(library).run(None, case.feeds())
    np.testing.assert_array_equal(y, x)
    assert current.shape == (shape[0], 0)


@pytest.mark.parametrize("outside", [-1, 3, 2**40, -(2**63), 2**63 - 1])
def test_an_index_out_of_range_fails_the_run_and_writes_nothing(library: str, outside: int) -> None:
    session = plain_port(library)
    case = one_fault(np.arange(6, dtype=np.float32).reshape(2, 3))
    case.index[1, 0] = outside
    with pytest.raises(Exception, match=rf"fault_index\[1, 0\] is {outside}, but a row of x has 3 elements \(port 7\)"):
        session.run(None, case.feeds())
    np.testing.assert_array_equal(case.x, np.arange(6).reshape(2, 3))
    case.site[1, 0] = PORT + 1  # not for this port: not its business
    y, current = session.run(None, case.feeds())  # the session goes on
    np.testing.assert_array_equal(y, case.expected()[0])
    np.testing.assert_array_equal(current, [[0], [0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"site": np.zeros((3, 1), np.int64)},
            r"fault_site has shape \(3, 1\); for x of shape \(2, 3\) it must be \(2, K\)",
        ),
        ({"index": np.zeros((2, 2), np.int64)}, r"fault_index has shape \(2, 2\), fault_site \(2, 1\)"),
        ({"xor": np.zeros((1, 1), np.uint32)}, r"fault_xor has shape \(1, 1\), fault_site \(2, 1\)"),
    ],
)
def test_shapes_that_do_not_fit_fail_the_run(library: str, change: dict[str, NDArray], message: str) -> None:
    feeds = one_fault(np.zeros((2, 3), np.float32)).feeds() | change
    with pytest.raises(Exception, match=message):
        plain_port(library, x_shape=None, fault_shape=None).run(None, feeds)


def test_a_scalar_has_no_rows(library: str) -> None:
    feeds = one_fault(np.zeros((1, 1), np.float32)).feeds() | {"x": np.array(1, np.float32)}
    with pytest.raises(Exception, match="x is a scalar; a fault port needs a batch axis"):
        plain_port(library, x_shape=None).run(None, feeds)


def test_a_type_it_does_not_know_is_refused_when_the_session_is_made(library: str) -> None:
    with pytest.raises(Exception, match=r"tensor\(double\).*FaultPort"):
        plain_port(library, TensorProto.DOUBLE)


def test_a_port_without_its_number_is_refused_when_the_session_is_made(library: str) -> None:
    node = helper.make_node("FaultPort", ["x", *FAULT_INPUTS], ["y", "current"], domain="testbed")
    with pytest.raises(Exception, match="port"):
        session_of(library, [node], {"y": TensorProto.FLOAT}, TensorProto.FLOAT)


@pytest.mark.parametrize("shape", [["B", 4, 3], [2, 4, 3], ["B", "N", 3]])
def test_the_shape_is_known_behind_a_port(library: str, shape: list[str | int]) -> None:
    """Or ONNX Runtime could not fuse what follows."""
    session = plain_port(library, x_shape=shape)
    assert session.get_outputs()[0].shape == shape


@pytest.mark.parametrize("shape", [None, ["B", None]])
def test_a_shape_that_is_unknown_stays_unknown(library: str, shape: list[str | None] | None) -> None:
    """A wrong one would have ONNX Runtime refuse the matrix product."""
    case = one_fault(np.ones((2, 3), np.float32), index=1, xor=1 << 31)
    ones = helper.make_node("Constant", [], ["ones"], value=numpy_helper.from_array(np.ones((3, 2), np.float32)))
    nodes = [port_node("x", "y", "current"), ones, helper.make_node("MatMul", ["y", "ones"], ["product"])]
    session = session_of(library, nodes, {"product": TensorProto.FLOAT}, TensorProto.FLOAT, x_shape=shape)
    np.testing.assert_array_equal(session.run(None, case.feeds())[0], np.ones((2, 2)))


def test_threads_share_a_session(library: str) -> None:
    session = plain_port(library)

    def run(number: int) -> bool:
        case = one_fault(np.full((2, 8), number, np.float32), index=number % 8, xor=1 << (number % 32))
        y, current = session.run(None, case.feeds())
        expected_y, expected_current = case.expected()
        return bool((as_words(y) == as_words(expected_y)).all() and (current == expected_current).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(run, range(400)))


def test_sessions_come_and_go(library: str) -> None:
    """They share the op's domain; none may outlive it or take it away from the others."""
    case = one_fault(np.ones((2, 3), np.float32))
    kept = plain_port(library)
    for _ in range(20):
        np.testing.assert_array_equal(plain_port(library).run(None, case.feeds())[0], case.expected()[0])
    np.testing.assert_array_equal(kept.run(None, case.feeds())[0], case.expected()[0])
