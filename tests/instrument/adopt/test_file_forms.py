"""A ViT in every form in which a file may come: taken in, it computes what the file does, and its twin does, too.

Oracles: the file itself, fed as it asks; its plain graph, changed by hand at one number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, version_converter

from testbed.core.errors import TestbedError, UsageError
from testbed.core.site import Site, SiteTable
from testbed.instrument.adopt.file import Adopted, adopt, adopt_lean
from testbed.instrument.adopt.images import takes_pixels
from testbed.instrument.adopt.judged import judged
from testbed.instrument.ports.feed import NO_SITE, PortFeed, to_words
from testbed.instrument.ports.insertion import ELEMENTS, instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import site_table
from tests.support.exporters import randomised, written
from tests.support.file_forms import ENDINGS, FORMS, FileForm, as_bfloat16
from tests.support.libraries import LIBRARIES, SITES, timm_model
from tests.support.onnx_files import by_hand, file_of

CLASSES = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's ViT of ten classes."""
    model = timm_model()
    model.reset_classifier(CLASSES)  # type: ignore[operator]
    return written(randomised(model), tmp_path_factory.mktemp("forms") / "vit.onnx", "torchscript")


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.float32]:
    """Pixels 0 to 255, some of them between two whole numbers by less than half."""
    pixels = np.random.default_rng(7).integers(0, 256, (3, 3, 16, 16))
    return pixels.astype(np.float32)


def made(form: FileForm, source: Path, folder: Path) -> Path:
    proto = onnx.load(source)
    onnx.save(form.make(proto) or proto, folder / "vit.onnx")
    return folder / "vit.onnx"


def faulty_by_hand(session: Any, plain: bytes, site: Site, images: NDArray, index: int, bit: int) -> NDArray:
    """What the plain graph gives when one bit of the first image's tensor is flipped: the tensor is taken out, changed, and
    fed to the rest."""
    proto = onnx.load_from_string(plain)
    (output,) = proto.graph.output
    name, kept = proto.graph.input[0].name, ModelProto()
    kept.CopyFrom(proto)
    if site.tensor != output.name:
        proto.graph.output.append(helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], None))
    value = np.array(session(proto.SerializeToString(), optimised=False)({name: images})[site.tensor])
    words = value.reshape(len(images), -1).view(site.format.word)
    words[0, index] ^= np.array(1 << bit).astype(site.format.word)
    if site.tensor == output.name:
        return value
    for node in kept.graph.node:
        node.output[:] = [f"{tensor}/before" if tensor == site.tensor else tensor for tensor in node.output]
    shape = [None] * value.ndim
    kept.graph.input.append(helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], shape))
    found: NDArray = session(kept.SerializeToString(), optimised=False)({name: images, site.tensor: value})[output.name]
    return found


def check_twin(session: Any, plain: bytes, images: NDArray, dtype: str, sites: tuple[str, ...]) -> SiteTable:
    """The twin without a fault is the plain file bit for bit, and with one the plain graph changed by hand."""
    table = site_table(plain, "model")
    twin = session(instrument(plain, table).SerializeToString(), optimised=False)
    name = onnx.load_from_string(plain).graph.input[0].name
    output = twin.outputs[0]
    wanted = session(plain, optimised=False)({name: images})[output]
    rows = len(images)
    idle = twin({name: images, **PortFeed.idle(rows).as_inputs(table)})[output]
    if dtype == "fp16":  # ONNX Runtime computes it in fp32, and rounds where it likes
        np.testing.assert_allclose(idle, wanted, rtol=0, atol=5e-3 * np.abs(wanted).max())
        assert {table[name].format_name for name in sites} == {dtype}
        return table
    np.testing.assert_array_equal(idle, wanted)
    for site in (table[name] for name in sites):
        assert site.format_name == dtype
        index, bit = site.elements // 2, site.format.bits - 2
        proto = onnx.load_from_string(plain)
        proto.graph.output.append(helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], None))
        golden = session(proto.SerializeToString(), optimised=False)({name: images})[site.tensor]
        none, armed = np.zeros(rows, np.uint32), np.arange(rows) == 0
        port = np.where(armed, table.ports[site.name], NO_SITE)
        masks = ~none, none, none | np.uint32(1 << bit)
        feed = PortFeed(port, np.full(rows, index), *masks, to_words(golden.reshape(rows, -1)[:, index]))
        faulty = twin({name: images, **feed.as_inputs(table)})[output]
        np.testing.assert_array_equal(
            faulty, faulty_by_hand(session, plain, site, images, index, bit), err_msg=site.name
        )
        np.testing.assert_array_equal(faulty[1:], wanted[1:])
    return table


PLACES = ("patch_embed", "block.0.norm1", "block.0.attn.softmax", "block.1.mlp.fc2")


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_taken_in(
    name: str, source: Path, images: NDArray, pictures: NDArray, session: Any, tmp_path: Path
) -> None:
    form = FORMS[name]
    fed = pictures if form.pixels else images.astype(np.float16).astype(np.float32)
    file = made(form, source, tmp_path)
    adopted = adopt(file)
    assert form.change in "; ".join(adopted.changes)
    assert bool(adopted.changes) == bool(form.change)
    proto = onnx.load_from_string(adopted.plain)
    assert takes_pixels(proto) == form.pixels
    onnx.checker.check_model(proto, full_check=True)
    theirs = onnx.load(file)
    stored = {tensor.name for tensor in theirs.graph.initializer}
    own = next(value.name for value in theirs.graph.input if value.name not in stored)
    rest = {"labels": np.zeros(3, np.int64)} if name == "an unused input" else {}
    for node in theirs.graph.node:
        node.name = ""
    wanted = session(theirs.SerializeToString(), optimised=False)({own: form.feed(fed), **rest})
    computed = session(adopted.plain, optimised=False)({proto.graph.input[0].name: fed})
    (theirs_out, *_), (ours, *_) = wanted.values(), computed.values()
    exact = form.dtype == "fp32"  # ONNX Runtime computes fp16 in fp32, and rounds where it likes
    np.testing.assert_allclose(ours, theirs_out, rtol=0, atol=0 if exact else 2e-3 * np.abs(theirs_out).max())
    table = check_twin(session, adopted.plain, fed, form.dtype, PLACES)
    assert {site.name for site in table if site.where == "activation"} == SITES
    assert not catalogue(adopted.plain).missing


def test_pixels_are_rounded_and_held_to_what_a_byte_can_be(source: Path, session: Any, tmp_path: Path) -> None:
    adopted = adopt(made(FORMS["bytes"], source, tmp_path))
    pixels = np.random.default_rng(3).uniform(-20, 280, (3, 3, 16, 16)).astype(np.float32)
    run = session(adopted.plain, optimised=False)
    whole = np.clip(np.rint(pixels), 0, 255)
    np.testing.assert_array_equal(run({"bytes": pixels})["logits"], run({"bytes": whole})["logits"])


def judged_file(file: Path) -> Adopted:
    """What a campaign takes of it."""
    return judged(adopt_lean(file), "vit.onnx", CLASSES).with_weights("model.data")


@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_is_judged_by_its_logits(
    name: str, source: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    form = ENDINGS[name]
    adopted = judged_file(made(form, source, tmp_path))
    assert form.change in "; ".join(adopted.changes)
    proto = onnx.load_from_string(adopted.plain)
    onnx.checker.check_model(proto, full_check=True)
    assert len(proto.graph.output) == 1
    wanted = session(source.read_bytes(), optimised=False)({"images": images})["logits"]
    (logits,) = session(adopted.plain, optimised=False)({"images": images}).values()
    np.testing.assert_array_equal(logits, wanted)
    check_twin(session, adopted.plain, images, "fp32", ("block.0.norm1", "block.1.mlp.fc2", "head"))


def test_half_precision_is_judged_as_float32(source: Path, images: NDArray, session: Any, tmp_path: Path) -> None:
    adopted = judged_file(made(FORMS["fp16 throughout"], source, tmp_path))
    assert adopted.changes == ("it takes float16 images; float32 ones are cast", "its output is cast to float32")
    (logits,) = session(adopted.plain)({"images": images}).values()
    wanted = session(source.read_bytes())({"images": images})["logits"]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=0.05 * np.abs(wanted).max())


def test_an_output_can_be_asked_for(source: Path, images: NDArray, session: Any, tmp_path: Path) -> None:
    file = made(ENDINGS["two heads"], source, tmp_path)
    adopted = adopt(file, "cls_logits")
    assert adopted.changes == (
        "of its 3 outputs cls_logits is judged, which was asked for; distillation_logits, logits are dropped",
    )
    (halved,) = session(adopted.plain)({"images": images}).values()
    np.testing.assert_array_equal(halved, session(file.read_bytes())({"images": images})["cls_logits"])
    lean = adopt_lean(file, "cls_logits")
    assert judged(lean, "vit.onnx", CLASSES) == lean
    with pytest.raises(UsageError, match=r"unknown output 'cls_logit'.*cls_logits"):
        adopt(file, "cls_logit")


def test_outputs_that_leave_a_choice_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    proto = onnx.load(made(ENDINGS["two heads"], source, tmp_path))
    proto.graph.output.pop()
    onnx.save(proto, tmp_path / "vit.onnx")
    adopted = adopt_lean(tmp_path / "vit.onnx")
    several = (
        r'2 outputs of 10 classes \(distillation_logits, cls_logits\); name the one .* \(\[model\] output = "NAME"\)'
    )
    none = r"2 outputs, and none of 7 classes: distillation_logits \(B, 10\), cls_logits \(B, 10\); choose another data set"
    for classes, message in ((CLASSES, several), (7, none)):
        with pytest.raises(UsageError, match=message) as refused:
            judged(adopted, "vit.onnx", classes)
        assert "\n" not in str(refused.value)


def test_two_inputs_are_refused_with_what_to_do(tmp_path: Path) -> None:
    proto = onnx.load_from_string(by_hand([helper.make_node("Add", ["x", "mask"], ["y"])]))
    proto.graph.input.append(helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["b", 4]))
    with pytest.raises(
        UsageError, match=r"has 2 inputs \(x, mask\); .* store what the others are fed .* name an output"
    ):
        adopt(file_of(tmp_path, proto.SerializeToString()))


def test_an_input_that_an_output_alone_needs_goes_with_the_others(
    source: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    """As of CLIP, whose text embeddings are made of another input."""
    proto = onnx.load(source)
    proto.graph.input.append(helper.make_tensor_value_info("text", onnx.TensorProto.FLOAT, ["b", 10]))
    proto.graph.node.append(helper.make_node("Add", ["logits", "text"], ["both"]))
    proto.graph.output.append(helper.make_tensor_value_info("both", onnx.TensorProto.FLOAT, ["b", 10]))
    onnx.save(proto, tmp_path / "vit.onnx")
    adopted = adopt(tmp_path / "vit.onnx", "logits")
    assert adopted.changes[1] == "its inputs text, which nothing takes, are dropped"
    run, wanted = session(adopted.plain), session(source.read_bytes())
    np.testing.assert_array_equal(run({"images": images})["logits"], wanted({"images": images})["logits"])


def test_a_file_in_double_precision_is_refused_with_what_to_do(tmp_path: Path) -> None:
    proto = onnx.load_from_string(by_hand([helper.make_node("Abs", ["x"], ["y"], name="magnitude")]))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del proto.graph.node[:]
    proto.graph.node.append(helper.make_node("Abs", ["x"], ["y"], name="magnitude"))
    adopted = adopt(file_of(tmp_path, proto.SerializeToString()))
    with pytest.raises(
        TestbedError, match=r"computes in double \(Abs 'magnitude'\), .*; convert it to float32 or float16"
    ):
        catalogue(adopted.plain)


def test_a_function_of_an_opset_in_which_it_means_something_else_is_refused(tmp_path: Path) -> None:
    proto = onnx.load_from_string(by_hand([helper.make_node("Halve", ["x"], ["y"], domain="some.one")]))
    body = [helper.make_node("Dropout", ["a"], ["b"], ratio=0.5)]
    proto.functions.append(helper.make_function("some.one", "Halve", ["a"], ["b"], body, [helper.make_opsetid("", 11)]))
    proto.opset_import.append(helper.make_opsetid("some.one", 1))
    with pytest.raises(TestbedError, match=r"is not valid ONNX: .*function op.*version 11.*: export it again"):
        adopt(file_of(tmp_path, proto.SerializeToString()))


def check_opset(file: Path, opset: int, images: NDArray, session: Any) -> None:
    adopted = adopt(file)
    assert onnx.load_from_string(adopted.plain).opset_import[0].version == opset
    fused = {f"block.{b}.attn.{part}" for b in (0, 1) for part in ("scores", "softmax")}
    table = check_twin(session, adopted.plain, images, "fp32", ("block.0.norm1", "block.1.mlp.gelu", "head"))
    named = {site.name for site in table if site.where == "activation"}
    has_attention = any(node.op_type == "Attention" for node in onnx.load_from_string(adopted.plain).graph.node)
    assert named >= (SITES - fused if has_attention else SITES)


@pytest.mark.parametrize("opset", [11, 13, 14, 17])
def test_opsets_of_the_older_exporter(opset: int, images: NDArray, session: Any, tmp_path: Path) -> None:
    """Below 17 norms, and below 20 GELUs, are written out."""
    model = randomised(LIBRARIES["timm"].model())
    part: Any
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # it has no operator before opset 14
    check_opset(written(model, tmp_path / "vit.onnx", "torchscript", opset_version=opset), opset, images, session)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_opsets_of_the_newer_exporter(opset: int, images: NDArray, session: Any, tmp_path: Path) -> None:
    model = randomised(LIBRARIES["timm"].model())
    check_opset(written(model, tmp_path / "vit.onnx", "dynamo", opset_version=opset), opset, images, session)


@pytest.mark.parametrize("opset", [21, 24, 26])
def test_opsets_up_to_the_newest_that_onnx_runtime_takes(
    opset: int, source: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    onnx.save(version_converter.convert_version(onnx.load(source), opset), tmp_path / "vit.onnx")
    check_opset(tmp_path / "vit.onnx", opset, images, session)


def test_bfloat16_has_sites_in_its_own_format(source: Path, tmp_path: Path) -> None:
    """ONNX Runtime multiplies no bfloat16 matrices; what is measured of the file is measured in float32."""
    onnx.save(as_bfloat16(onnx.load(source)), tmp_path / "vit.onnx")
    adopted = judged_file(tmp_path / "vit.onnx")
    assert adopted.changes == ("it takes bfloat16 images; float32 ones are cast", "its output is cast to float32")
    sites = catalogue(adopted.plain).recognised
    assert {site.name for site in sites if site.where == "activation"} == SITES
    assert {site.format_name for site in sites} == {"bf16"}
    onnx.checker.check_model(instrument(adopted.plain, site_table(adopted.plain, "model")))
