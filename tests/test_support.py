"""What the tests themselves rest on."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from testbed.export.onnx import plain_onnx
from testbed.models.vit import ViT
from tests.support.exporters import written
from tests.support.exports import export_key
from tests.support.once import made_once
from tests.support.tiny_models import TINY_VIT


def vit(**changes: float) -> ViT:
    torch.manual_seed(0)
    model = ViT(TINY_VIT).eval()
    for name, value in changes.items():
        with torch.no_grad():
            model.get_parameter(name.replace("_", ".")).view(-1)[0] = value
    return model


def test_an_export_that_is_remembered_is_the_one_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this model and no other; with what it was asked for and nothing else."""
    images = torch.zeros(2, 1, 4, 4)
    remembered = [plain_onnx(vit(), images, input_name="image").SerializeToString() for _ in range(2)]
    assert remembered[0] == remembered[1]
    other = plain_onnx(vit(head_bias=7.0), images, input_name="image")
    assert onnx.numpy_helper.to_array(next(i for i in other.graph.initializer if i.name == "head.bias"))[0] == 7
    assert plain_onnx(vit(), images, input_name="x").graph.input[0].name == "x"
    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export.__wrapped__)  # type: ignore[attr-defined]
    really = plain_onnx(vit(), images, input_name="image").SerializeToString()
    assert really == remembered[0]


def test_a_file_of_a_library_is_remembered_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)).eval()
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    files = [written(model, tmp_path / folder / "some.onnx", "dynamo") for folder in ("first", "second")]
    contents = [{f.name: f.read_bytes() for f in file.parent.iterdir()} for file in files]
    assert contents[0] == contents[1]
    onnx.checker.check_model(onnx.load(files[1]), full_check=True)


def test_keys_of_exports_tell_all_that_matters_apart() -> None:
    same = [export_key(vit(), (torch.zeros(2),), {"dim": torch.export.Dim("b", min=1)}) for _ in range(2)]
    assert same[0] == same[1] is not None
    others = {
        export_key(vit(head_bias=7.0), (torch.zeros(2),), {"dim": torch.export.Dim("b", min=1)}),
        export_key(vit().double(), (torch.zeros(2),), {"dim": torch.export.Dim("b", min=1)}),
        export_key(vit().train(), (torch.zeros(2),), {"dim": torch.export.Dim("b", min=1)}),
        export_key(vit(), (torch.ones(2),), {"dim": torch.export.Dim("b", min=1)}),
        export_key(vit(), (torch.zeros(2),), {"dim": torch.export.Dim("b", min=2)}),
        export_key(vit(), (torch.zeros(2),), {"dim": torch.export.Dim("c", min=1)}),
    }
    assert len({*others, same[0]}) == 7
    assert export_key(lambda: None) is None


def test_what_could_not_be_made_is_made_again(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        if len(made) == 1:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        made_once(tmp_path / "it", make)
    assert [made_once(tmp_path / "it", make) for _ in range(3)] == [tmp_path / "it"] * 3
    assert len(made) == 2
