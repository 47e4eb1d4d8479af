"""Every variant of the model exports: plain tensor ops only, a dynamic batch, the same numbers in ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from testbed.export.onnx import export_onnx
from testbed.models.presets import preset
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT, taps

TROUBLESOME = {
    "SplitToSequence",
    "SequenceAt",
    "SequenceConstruct",
    "ConcatFromSequence",
    "Split",
    "Slice",
    "Loop",
    "If",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "digits": {},
    "post-norm, conv, no final norm": {"norm_order": "post", "patchify": "conv", "final_norm": "none"},
    "differential, 2-D positions, mean": {
        "attention": "differential",
        "position": "2d",
        "pooling": "mean",
        "final_norm": "tokens",
    },
    "no CLS, sinusoidal, patch norms": {
        "cls_token": False,
        "pooling": "mean",
        "position": "sinusoidal",
        "patch_norm": True,
        "qkv_bias": False,
    },
    "residual post-norm, fixed 2-D positions, no bias after attention": {
        "norm_order": "residual_post",
        "position": "sincos_2d",
        "proj_bias": False,
        "cls_token": False,
        "pooling": "mean",
    },
    "unequal and empty blocks": {"heads": (1, 0, 3), "mlp": (5, 9, 0), "norm_order": "post"},
    **{name: {"activation": name} for name in ("gelu_tanh", "quick_gelu")},
    "layer scale, normed queries and keys": {"layer_scale": True, "qk_norm": True},
    "gated MLP": {"gated_mlp": True, "activation": "silu"},
    "registers, positions on patches, CLS alone": {"registers": 3, "position_on": "patches"},
    "distilled, two heads": {"distillation": "head", "final_norm": "tokens"},
    "a distillation token read by nothing, norm before the blocks, no patch bias": {
        "distillation": "token",
        "embed_norm": True,
        "patch_bias": False,
        "patchify": "conv",
    },
}


def exported(tmp_path, module, example):
    path = tmp_path / "plain.onnx"
    export_onnx(module, example, path, input_name="x")
    proto = onnx.load(path)
    assert not TROUBLESOME & {node.op_type for node in proto.graph.node}
    assert {i.name for i in proto.graph.initializer} >= {name for name, _ in module.named_parameters()}
    produced = {name for node in proto.graph.node for name in node.output}
    assert produced >= taps(module).keys()
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", VARIANTS)
def test_models(tmp_path, name):
    torch.manual_seed(0)
    model = ViT(preset("digits", **VARIANTS[name])).eval()
    x = torch.randn(5, 1, 8, 8)
    session = exported(tmp_path, model, x[:2])
    for batch in (1, 5):
        with torch.no_grad():
            want = model(x[:batch]).numpy()
        np.testing.assert_allclose(session.run(None, {"x": x[:batch].numpy()})[0], want, atol=2e-5)


@pytest.mark.parametrize(
    ("target", "changes"), [("attention", {"attention": "differential"}), ("block:1", {"norm_order": "post"})]
)
def test_subnetworks(tmp_path, target, changes):
    torch.manual_seed(0)
    part = subnetwork(ViT(preset("digits", **changes)), target)
    x = torch.randn(3, 17, 32)
    session = exported(tmp_path, part, x[:2])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], part(x).numpy(), atol=2e-5)
