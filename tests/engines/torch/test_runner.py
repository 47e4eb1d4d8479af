"""The torch engine: the same files, the same answers as ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx import TensorProto, helper

from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.formats import FP32
from testbed.engines.runner import EngineRequest, WeightInjector, faulty_weight, open_engine
from testbed.engines.torch.host import host_values
from testbed.engines.torch.runner import TorchRunner
from testbed.export.onnx import export_onnx
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.models.presets import preset
from testbed.models.vit import ViT

IMAGES = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
VARIANTS: dict[str, dict[str, Any]] = {
    "digits": {},
    "differential, 2-D positions, convolution": {
        "attention": "differential",
        "position": "2d",
        "pooling": "mean",
        "patchify": "conv",
    },
    "post-norm, patch norm, sinusoidal, pooled patches": {
        "norm_order": "post",
        "position": "sinusoidal",
        "pooling": "mean_patches",
        "patch_norm": True,
        "final_norm": "tokens",
    },
}


def request(model, **changes):
    return EngineRequest(model, "file", "deployment", **changes)


def outputs(backend, model, feeds, **changes):
    with open_engine(backend, request(model, **changes)) as runner:
        return runner.run(feeds)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, bytes of its plain ONNX) of a variant, exported once."""
    made = {}

    def export(variant="digits"):
        if variant not in made:
            torch.manual_seed(0)
            model = ViT(preset("digits", **VARIANTS[variant])).eval()
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            export_onnx(model, torch.from_numpy(IMAGES), path, input_name="image")
            made[variant] = model, path.read_bytes()
        return made[variant]

    return export


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_graph_gives_what_the_module_gave(exported, variant):
    model, plain = exported(variant)
    with torch.inference_mode():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    found = outputs("torch", plain, {"image": IMAGES})
    assert list(found) == ["head"]
    np.testing.assert_allclose(found["head"], expected, atol=2e-6)
    np.testing.assert_allclose(found["head"], outputs("ort-cpu", plain, {"image": IMAGES})["head"], atol=5e-6)


def test_fault_ports_act_and_idle_ports_change_no_bit(exported):
    _, plain = exported()
    table = site_table(plain, "model")
    twin = instrument(plain, table).SerializeToString()
    idle = PortFeed.idle(len(IMAGES))
    golden = outputs("torch", plain, {"image": IMAGES})["head"]
    assert np.array_equal(outputs("torch", twin, {"image": IMAGES, **idle.as_inputs(table)})["head"], golden)
    site, index, value = idle.site.copy(), idle.index.copy(), np.zeros(len(IMAGES), np.float32)
    site[2], index[2], value[2] = table.ports["block.1.mlp.gelu"], 7, 1000.0
    site[4], index[4], value[4] = table.ports["head"], 3, -0.0
    feeds = {"image": IMAGES, **PortFeed.writing(site, index, value.view(np.uint32)).as_inputs(table)}
    found, expected = outputs("torch", twin, feeds), outputs("ort-cpu", twin, feeds)
    assert np.array_equal(found["head"][[0, 1, 3]], golden[[0, 1, 3]])
    assert not np.allclose(found["head"][2], golden[2])
    assert found["head"][4, 3] == 0
    assert np.signbit(found["head"][4, 3])
    for name in ("head", "fault_live"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_weight_fault_acts_at_once_and_is_undone(exported):
    _, plain = exported()
    with open_engine("torch", request(plain, mutable_weights=True)) as runner:
        assert isinstance(runner, WeightInjector)
        golden = runner.run({"image": IMAGES})["head"]
        with faulty_weight(runner, "block.0.mlp.fc1.weight", 3, masks_for("flip", FP32, 30)) as (before, after):
            assert before != after
            assert not np.array_equal(runner.run({"image": IMAGES})["head"], golden)
        assert np.array_equal(runner.run({"image": IMAGES})["head"], golden)
        with pytest.raises(EngineError, match="cannot be struck"):
            runner.weight("no.such.weight")
    with open_engine("torch", request(plain)) as fixed:
        assert isinstance(fixed, WeightInjector)
        with pytest.raises(EngineError, match="without mutable weights"):
            fixed.weight("block.0.mlp.fc1.weight")


def test_the_number_of_threads_is_set_back(exported):
    before = torch.get_num_threads()
    _, plain = exported()
    with open_engine("torch", request(plain, threads=before + 1)) as runner:
        runner.run({"image": IMAGES})
        assert runner.info.options["threads"] == before + 1
    assert torch.get_num_threads() == before


def small_graph(nodes, inputs, output, initializers=()):
    """Bytes of an ONNX model; inputs: name -> shape."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


X = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float32)
INTS = {"minus": [-1, 0], "two": [2, 2], "axes": [1, -1], "first": [1, 0], "far": [2**63 - 1, 3], "shape": [0, -1, 5]}
OPERATOR_CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Gather": ({"axis": 2}, ["minus"]),
    "Slice": ({}, ["first", "far", "axes"]),
    "Reshape": ({}, ["shape"]),
    "Unsqueeze": ({}, ["axes"]),
    "ReduceMean": ({"keepdims": 0}, ["axes"]),
    "Transpose": ({}, []),
    "Flatten": ({"axis": 2}, []),
    "Softmax": ({"axis": 1}, []),
    "Gelu": ({"approximate": "tanh"}, []),
    "Erf": ({}, []),
    "Sigmoid": ({}, []),
    "Neg": ({}, []),
    "Relu": ({}, []),
    "Tanh": ({}, []),
}


@pytest.mark.parametrize("operator", OPERATOR_CASES)
def test_operators_agree_with_onnx_runtime(operator):
    attributes, constants = OPERATOR_CASES[operator]
    node = helper.make_node(operator, ["x", *constants], ["y"], **attributes)
    plain = small_graph([node], {"x": X.shape}, "y", [(name, np.array(INTS[name])) for name in constants])
    found, expected = outputs("torch", plain, {"x": X})["y"], outputs("ort-cpu", plain, {"x": X})["y"]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


FARTHEST = 2**63 - 1
SLICES = [
    (0, FARTHEST, 1),
    (-FARTHEST, -1, 2),
    (-1, -FARTHEST, -1),
    (FARTHEST, 0, -2),
    (-2, 9, 1),
    (3, 1, 1),
    (1, -2, 3),
]


@pytest.mark.parametrize(("first", "last", "step"), SLICES)
def test_slices_from_and_to_anywhere_agree_with_onnx_runtime(first, last, step):
    stored = [("first", [first]), ("last", [last]), ("axes", [3]), ("steps", [step])]
    node = helper.make_node("Slice", ["x", "first", "last", "axes", "steps"], ["y"])
    plain = small_graph([node], {"x": X.shape}, "y", stored)
    found, expected = outputs("torch", plain, {"x": X})["y"], outputs("ort-cpu", plain, {"x": X})["y"]
    assert np.array_equal(found, expected)
    assert np.array_equal(found, X[..., slice(first, last, step)])


def test_split_and_padded_strided_convolution_agree_with_onnx_runtime():
    weight = np.random.default_rng(2).standard_normal((6, 3, 2, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["c"], strides=[1, 2], pads=[1, 0, 0, 2]),
        helper.make_node("Split", ["c", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
    ]
    plain = small_graph(nodes, {"x": X.shape}, "y", [("weight", weight), ("sizes", np.array([2, 4]))])
    found, expected = outputs("torch", plain, {"x": X})["y"], outputs("ort-cpu", plain, {"x": X})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_it_cannot_run_is_told_when_it_is_built():
    plain = small_graph([helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2])], {"x": X.shape}, "y")
    with pytest.raises(EngineError, match=r"no ONNX operator ai\.onnx\.LpPool here; use ort-cpu"):
        open_engine("torch", request(plain))
    with pytest.raises(EngineError, match="not ONNX"):
        open_engine("torch", request(b"no model"))


def test_wrong_feeds_are_refused(exported):
    _, plain = exported()
    with open_engine("torch", request(plain)) as runner:
        with pytest.raises(EngineError, match="the model takes image"):
            runner.run({"pixels": IMAGES})
        with pytest.raises(
            EngineError, match=r"the model takes image float32 \(.*1, 8, 8\).*, not float32 \(5, 1, 4, 8\)"
        ):
            runner.run({"image": IMAGES[:, :, :4]})


def test_a_node_that_fails_is_named(exported):
    graph = small_graph(
        [helper.make_node("Reshape", ["x", "sizes"], ["y"], name="odd")],
        {"x": X.shape},
        "y",
        [("sizes", np.array([7, 7]))],
    )
    with open_engine("torch", request(graph)) as runner, pytest.raises(EngineError, match="torch failed at node 'odd'"):
        runner.run({"x": X})


def test_weights_are_copied_to_the_device_when_they_change(exported):
    """On a GPU the engine computes with copies; here they are made by hand."""

    class WithCopies(TorchRunner):
        def __init__(self, asked):
            super().__init__(asked)
            self._constants = {name: value.clone() for name, value in self._constants.items()}

    _, plain = exported()
    with WithCopies(request(plain, mutable_weights=True)) as runner:
        golden = runner.run({"image": IMAGES})["head"]
        with faulty_weight(runner, "head.bias", 3, masks_for("flip", FP32, 31)):
            assert (runner.run({"image": IMAGES})["head"][:, 3] != golden[:, 3]).all()
        assert np.array_equal(runner.run({"image": IMAGES})["head"], golden)


LEVELS = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf, -np.inf, np.nan, 3.49, -0.0]], np.float32)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("slices", [(), (12,)], ids=["one scale", "one per column"])
def test_quantisation_agrees_with_onnx_runtime_on_ties_ends_and_nan(kind, slices):
    x = np.repeat(LEVELS, 3, axis=0)
    scale, zero = np.full(slices, 0.25, np.float32), np.full(slices, 3, kind)
    stored = [("scale", scale), ("zero", zero)]
    quantise = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=1)
    dequantise = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=1)
    plain = small_graph([quantise, dequantise], {"x": x.shape}, "y", stored)
    assert np.array_equal(outputs("torch", plain, {"x": x})["y"], outputs("ort-cpu", plain, {"x": x})["y"])


def test_an_int32_bias_is_dequantised_as_by_onnx_runtime():
    bias = np.array([2**31 - 1, -(2**31), 7, -1, 0], np.int32)
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale", "zero"], ["b"]),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    stored = [("bias", bias), ("scale", np.float32(0.003)), ("zero", np.int32(0))]
    plain = small_graph(nodes, {"x": (5,)}, "y", stored)
    x = np.zeros(5, np.float32)
    assert np.array_equal(outputs("torch", plain, {"x": x})["y"], outputs("ort-cpu", plain, {"x": x})["y"])


PAIRS = ("Mod", "And", "Or", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "CastLike", "Div")


@pytest.mark.parametrize("operator", PAIRS)
def test_operators_of_two_whole_or_logical_arrays_agree_with_onnx_runtime(operator):
    a, b = np.array([7, -7, 7, -7, 3, 0]), np.array([3, 3, -3, -3, 3, 1])
    if operator in ("And", "Or"):
        a, b = a > 0, b > 0
    if operator == "CastLike":
        b = b.astype(np.float32)
    nodes = [
        helper.make_node(operator, ["a", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    plain = small_graph(nodes, {"x": (6,)}, "y", [("a", a), ("b", b)])
    x = np.zeros(6, np.float32)
    assert np.array_equal(outputs("torch", plain, {"x": x})["y"], outputs("ort-cpu", plain, {"x": x})["y"])


def test_ranges_nan_and_not_agree_with_onnx_runtime():
    nodes = [
        helper.make_node("Range", ["start", "limit", "step"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("IsNaN", ["x"], ["n"]),
        helper.make_node("Not", ["n"], ["m"]),
        helper.make_node("Where", ["m", "x", "f"], ["y"]),
    ]
    stored = [(name, np.array(value)) for name, value in (("start", 1), ("limit", 8), ("step", 3))]
    plain = small_graph(nodes, {"x": (3,)}, "y", stored)
    x = np.array([np.nan, 5, np.nan], np.float32)
    for backend in ("torch", "ort-cpu"):
        assert outputs(backend, plain, {"x": x})["y"].tolist() == [1, 5, 7]


@pytest.mark.parametrize(("width", "classes"), [(64, 10), (192, 1000), (32, 96)])
def test_a_rows_bits_do_not_depend_on_the_size_of_its_batch(width, classes):
    """Golden values may be read in smaller batches than faults are run in."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((classes, width)).astype(np.float32)
    rows = rng.standard_normal((16, width)).astype(np.float32)
    stored = [("w", weight), ("c", np.ones(classes, np.float32))]
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], transB=1)
    plain = small_graph([node], {"x": ("b", width)}, "y", stored)
    together = outputs("torch", plain, {"x": rows})["y"]
    for size in (2, 4, 8):
        parts = [outputs("torch", plain, {"x": rows[start : start + size]})["y"] for start in range(0, 16, size)]
        assert np.concatenate(parts).tobytes() == together.tobytes()


class OnAnotherDevice(TorchRunner):
    """A device that gives nothing back: torch raises where a value is read from it, or mixed with the host's."""

    device = "meta"

    def _device_options(self):
        return {}


@pytest.mark.parametrize("variant", list(VARIANTS)[:2])  # the third has an axis that is an index too: the device's
def test_only_outputs_come_back_from_the_device(exported, variant):
    """Shapes, axes and bounds stay on the host: on a GPU each would be a wait in the middle of a run."""
    _, plain = exported(variant)
    with OnAnotherDevice(request(plain)) as runner, torch.inference_mode():
        made = runner.compute(runner.upload({"image": IMAGES}))
    assert {value.device.type for value in made.values()} == {"meta"}
    wanted = outputs("torch", plain, {"image": IMAGES})
    assert {name: tuple(value.shape) for name, value in made.items()} == {n: a.shape for n, a in wanted.items()}


def test_what_is_also_computed_with_is_the_devices():
    """One constant both tells a shape and is a number of the result; another only tells the shape."""
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 2]) for name, kind in (("x", 7), ("y", 7)))
    shape, more = (helper.make_tensor(name, TensorProto.INT64, [2], v) for name, v in (("s", [-1, 2]), ("m", [1, 2])))
    nodes = [
        helper.make_node("Add", ["s", "m"], ["both"]),
        helper.make_node("Constant", [], ["flat"], value=helper.make_tensor("f", TensorProto.INT64, [1], [-1])),
        helper.make_node("Reshape", ["x", "flat"], ["all"]),
        helper.make_node("Reshape", ["all", "s"], ["pairs"]),
        helper.make_node("Add", ["pairs", "both"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [shape, more])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert host_values(model) == {"flat"}
    given = np.arange(6).reshape(3, 2)
    found = outputs("torch", model.SerializeToString(), {"x": given})["y"]
    np.testing.assert_array_equal(found, given + np.array([0, 4]))


def test_a_graph_of_nothing_but_a_constant():
    value = helper.make_tensor("v", TensorProto.FLOAT, [2], [1, 2])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Constant", [], ["y"], value=value)], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    assert outputs("torch", model, {"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 2]


@pytest.mark.parametrize("op", ["Abs", "Clip", "ReduceMax", "ReduceMin", "ReduceSum"])
def test_what_checks_of_protected_files_are_made_of_is_as_the_standard_has_it(op: str) -> None:
    """Oracle: ONNX's own reference implementation."""
    extra = {"Clip": ["low", "high"], "Abs": []}.get(op, ["axes"])
    attributes: dict[str, Any] = {"keepdims": 0} if op.startswith("Reduce") else {}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *extra], ["y"], **attributes)],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("low", TensorProto.FLOAT, [], [-0.5]),
            helper.make_tensor("high", TensorProto.FLOAT, [], [0.25]),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)
    with open_engine("torch", EngineRequest.of_bytes(proto.SerializeToString(), "one")) as runner:
        computed = runner.run({"x": images})["y"]
    (wanted,) = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": images})
    np.testing.assert_allclose(computed, np.asarray(wanted), rtol=1e-6)
