"""Families that our one model cannot be are named in one line that says how to run them from an ONNX file."""

import pytest
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.core.errors import TestbedError, UsageError
from testbed.models.importers import import_weights
from tests.support.weights import saved

TIMM = {
    "swin_tiny_patch4_window7_224": "Swin, with attention in windows",
    "swinv2_tiny_window8_256": "Swin, with attention in windows",
    "cait_xxs24_224": "CaiT",
    "xcit_nano_12_p16_224": "XCiT",
    "crossvit_tiny_240": "CrossViT",
    "twins_svt_small": "Twins",
    "pvt_v2_b0": "stages shrink the image",
    "levit_128s": "LeViT or TinyViT",
    "tiny_vit_5m_224": "LeViT or TinyViT",
    "mobilevit_xxs": "stages shrink the image",
    "coat_tiny": "CoaT",
    "maxvit_tiny_rw_224": "MaxViT",
    "vit_tiny_r_s16_p8_224": "hybrid",
    "convit_tiny": "ConViT",
    "tnt_s_patch16_224": "TNT",
    "volo_d1_224": "VOLO",
    "pit_ti_224": "PiT",
    "nest_tiny": "NesT",
    "vit_relpos_small_patch16_224": "relative positions",
    "beit_base_patch16_224": "BEiT or EVA",
    "eva02_tiny_patch14_224": "BEiT or EVA",
}


@pytest.mark.parametrize("architecture", TIMM)
def test_timm(tmp_path, architecture):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        names = timm.create_model(architecture).state_dict()
    path = saved(tmp_path, {name: torch.zeros(2, 2) for name in names})
    with pytest.raises(TestbedError, match=TIMM[architecture]) as raised:
        import_weights(path)
    said = str(raised.value)
    assert "\n" not in said
    assert "torch.onnx.export(model.eval()" in said
    assert "testbed instrument FILE.onnx" in said


@pytest.mark.parametrize(
    "model_type", ["swin", "swinv2", "levit", "mobilevit", "pvt_v2", "hiera", "beit", "dinov3_vit"]
)
def test_huggingfaces_configurations(tmp_path, model_type):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    with pytest.raises(UsageError, match="is not supported; export it to ONNX") as raised:
        import_weights(saved(tmp_path, {"swin.embeddings.norm.weight": torch.zeros(2)}))
    assert "no plain ViT" not in str(raised.value)
    assert "testbed instrument FILE.onnx" in str(raised.value)
