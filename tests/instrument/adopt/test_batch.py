"""Fixed batches of a user's file: made dynamic where that changes nothing, refused with the way to export otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from testbed.core.errors import UsageError
from testbed.instrument.adopt.file import adopt
from tests.support.exporters import randomised, written
from tests.support.libraries import LIBRARIES, SITES, imported
from tests.support.onnx_files import by_hand, file_of, logits, site_names, torch_logits


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("timm", "torchscript"),
        ("timm", "dynamo"),
        ("torchvision", "torchscript"),  # whose attention puts the tokens before the images
        pytest.param("torchvision", "dynamo", marks=pytest.mark.slow),
        pytest.param("hugging face", "torchscript", marks=pytest.mark.slow),
        pytest.param("hugging face", "dynamo", marks=pytest.mark.slow),
    ],
)
def test_a_batch_fixed_at_one_is_made_dynamic(
    images: NDArray, session: Any, tmp_path: Path, name: str, exporter: str
) -> None:
    fixed = randomised(LIBRARIES[name].model())
    adopted = adopt(written(fixed, tmp_path / "vit.onnx", exporter, batch=1))
    assert any("made dynamic" in change for change in adopted.changes)
    assert site_names(adopted.plain) == SITES
    with torch.no_grad():
        output = fixed(torch.from_numpy(images))
    wanted = getattr(output, "logits", output).numpy()
    np.testing.assert_allclose(logits(session, adopted.plain, images), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_windows_joined_to_images_are_opened(images: NDArray, session: Any, tmp_path: Path, exporter: str) -> None:
    """A Swin of 8 x 8 patches in four windows, every other block's shifted."""
    swin = imported("timm.models.swin_transformer").SwinTransformer(
        img_size=16, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), num_classes=5
    )
    model = randomised(swin)
    adopted = adopt(written(model, tmp_path / "swin.onnx", exporter, batch=1))
    assert "its batch, fixed at 1, is made dynamic; checked to give the same rows" in adopted.changes
    np.testing.assert_allclose(logits(session, adopted.plain, images), torch_logits(model, images), rtol=0, atol=1e-4)


def test_a_batch_that_is_dynamic_in_name_only_is_one_of_one(images: NDArray, session: Any, tmp_path: Path) -> None:
    fixed = randomised(LIBRARIES["timm"].model())
    proto = onnx.load(written(fixed, tmp_path / "vit.onnx", "torchscript", batch=1))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, tmp_path / "claims.onnx")
    adopted = adopt(tmp_path / "claims.onnx")
    assert any("said to be dynamic but held to one image" in change for change in adopted.changes)
    np.testing.assert_allclose(logits(session, adopted.plain, images), torch_logits(fixed, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("held", [2, 4])
def test_a_batch_fixed_at_several_is_made_dynamic(images: NDArray, session: Any, tmp_path: Path, held: int) -> None:
    fixed = randomised(LIBRARIES["timm"].model())
    file = written(fixed, tmp_path / "vit.onnx", "torchscript", batch=held, dynamic_axes={})
    adopted = adopt(file)
    assert adopted.changes == (f"its batch, fixed at {held}, is made dynamic; checked to give the same rows",)
    np.testing.assert_allclose(logits(session, adopted.plain, images), torch_logits(fixed, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("held", [2, 3])
def test_a_batch_that_is_held_to_the_number_of_images_it_was_exported_with_is_refused(
    tmp_path: Path, held: int
) -> None:
    """As a class token written as ``token.expand(len(x), -1)`` leaves it."""
    content = by_hand([helper.make_node("Expand", ["x", "many"], ["y"])], many=np.array([held, 4]))
    with pytest.raises(UsageError, match=f"its graph holds it to {held} images; export it with a dynamic batch"):
        adopt(file_of(tmp_path, content))


def test_a_larger_batch_that_is_dynamic_in_name_only_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "eight"], ["y"])]
    content = by_hand(nodes, eight=np.array([8, 4]))
    with pytest.raises(
        UsageError, match=r"neither with one image nor with two \(ONNX Runtime failed.*; export it with a"
    ):
        adopt(file_of(tmp_path, content))


def test_a_batch_that_is_fixed_in_name_only_is_opened(dynamic: Path, tmp_path: Path) -> None:
    proto = onnx.load(dynamic)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(proto, tmp_path / "eight.onnx")
    (change,) = adopt(tmp_path / "eight.onnx").changes
    assert change == "its batch, fixed at 8, is made dynamic; checked to give the same rows"


def rows_of_a_mean(batch: int) -> bytes:
    """Rows less their mean over the batch."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "over the batch"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Add", ["centred", "w"], ["y"]),
    ]
    return by_hand(nodes, batch=batch, w=np.ones(4, np.float32), **{"over the batch": np.array([0])})


def test_a_model_whose_rows_depend_on_each_other_keeps_its_fixed_batch(tmp_path: Path) -> None:
    (change,) = adopt(file_of(tmp_path, rows_of_a_mean(1))).changes
    assert "fixed at 1, cannot be made dynamic: one image, and one fault, is run at a time" in change
    with pytest.raises(UsageError, match="fixed at 8; export it with a dynamic batch") as told:
        adopt(file_of(tmp_path, rows_of_a_mean(8)))
    assert "\n" not in str(told.value)
