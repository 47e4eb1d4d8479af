"""Files as users of other libraries have them: small models with random weights, and images for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from torch import nn

from testbed.compat.exporters import quiet
from tests.support.exporters import randomised, written
from tests.support.libraries import BLOCKS, HEADS, LIBRARIES, WIDTH, imported, timm_model

SIDE, CLASSES = 16, 5


def photos(folder: Path, train: int = 10, test: int = 8) -> str:
    """A data set of random images in five classes, by its name."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for label in range(CLASSES):
            path = folder / part / f"c{label}"
            path.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"{number:02}.png")
    return f"imagefolder:{folder}"


def _transformers(name: str, **changes: Any) -> Callable[[], nn.Module]:
    """A classifier of transformers by its family: "DeiT" is DeiTForImageClassification."""

    def model() -> nn.Module:
        library = imported("transformers")
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "image_size": SIDE}
        config = getattr(library, f"{name}Config")(**sizes, patch_size=8, num_labels=CLASSES, **changes)
        made: nn.Module = getattr(library, f"{name}ForImageClassification")(config)
        return made

    return model


def _deit() -> nn.Module:
    library = imported("timm.models.deit")
    model: nn.Module = library.VisionTransformerDistilled(
        img_size=SIDE, patch_size=8, num_classes=CLASSES, embed_dim=WIDTH, depth=BLOCKS, num_heads=HEADS
    )
    return model


def _timm(layer: str = "", **changes: Any) -> Callable[[], nn.Module]:
    return lambda: timm_model(**changes, **({"mlp_layer": getattr(imported("timm.layers"), layer)} if layer else {}))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm ViT": LIBRARIES["timm"].model,
    "timm DeiT, distilled": _deit,
    "timm, SwiGLU of two maps": _timm("SwiGLU"),
    "timm, SwiGLU of one map": _timm("SwiGLUPacked"),
    "timm, norms of q and k": _timm(qk_norm=True),
    "timm, registers": _timm(reg_tokens=4),
    "timm, average of tokens": _timm(class_token=False, global_pool="avg"),
    "timm, layer scale": _timm(init_values=0.5),
    "transformers ViT": LIBRARIES["hugging face"].model,
    "transformers DeiT": _transformers("DeiT", intermediate_size=64),
    "transformers DINOv2": _transformers("Dinov2"),
    "transformers DINOv2, SwiGLU": _transformers("Dinov2", use_swiglu_ffn=True),
    "transformers DINOv2, registers": _transformers("Dinov2WithRegisters", num_register_tokens=2),
    "torchvision ViT": LIBRARIES["torchvision"].model,
    "vit-pytorch": LIBRARIES["vit-pytorch"].model,
}


def exported(name: str, file: Path, exporter: str, **options: Any) -> Path:
    """The model's file, as `written` has it."""
    return written(randomised(MODELS[name]()), file, exporter, **options)


def _changed(change: Callable[[onnx.ModelProto], onnx.ModelProto | None]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        proto = onnx.load(file)
        onnx.save(change(proto) or proto, file)

    return apply


def _with_softmax(proto: onnx.ModelProto) -> None:
    (output,) = proto.graph.output
    proto.graph.node.append(helper.make_node("Softmax", [output.name], ["probabilities"]))
    output.name = "probabilities"


def _in_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    convert = imported("onnxruntime.transformers.float16").convert_float_to_float16
    with quiet():
        half: onnx.ModelProto = convert(proto, keep_io_types=True)
    return half


def _beside(file: Path) -> None:
    onnx.save(onnx.load(file), file, save_as_external_data=True, location=f"{file.name}.data", size_threshold=0)


WAYS: dict[str, tuple[str, dict[str, Any], Callable[[Path], None] | None]] = {
    "fixed batch": ("dynamo", {"batch": 1}, None),
    "fixed batch, older exporter": ("torchscript", {"batch": 1}, None),
    "weights beside the file": ("dynamo", {}, _beside),
    "fp16": ("torchscript", {}, _changed(_in_half)),
    "softmax at its end": ("dynamo", {}, _changed(_with_softmax)),
    "an input of another name": (
        "torchscript",
        {"input_names": ["pixel values:0"], "dynamic_axes": {"pixel values:0": {0: "N"}, "logits": {0: "N"}}},
        None,
    ),
    "norms written out": ("torchscript", {"opset_version": 14}, None),
}
"""Ways to write timm's ViT: exporter, its options, and what is done to the file then."""


def written_as(way: str, file: Path) -> Path:
    """timm's ViT, written in one of `WAYS`."""
    exporter, options, change = WAYS[way]
    exported("timm ViT", file, exporter, **options)
    if change is not None:
        change(file)
    return file
