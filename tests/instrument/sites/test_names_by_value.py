"""Architectures whose blocks are not the plain ViT's: every name that a file gets is the library's own tensor, by value.

Oracle: forward hooks on the torch modules, and what is fed to torch's attention function. A site without an oracle fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from testbed.instrument.adopt.file import adopt
from testbed.instrument.sites.catalogue import catalogue
from tests.support.exporters import randomised, written
from tests.support.libraries import BLOCKS, HEADS, SITES, WIDTH, Seen, imported, timm_model, vit_pytorch_blocks
from tests.support.onnx_files import site_values

IMAGES = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
BASE = {"img_size": 16, "patch_size": 8, "num_classes": 5, "embed_dim": WIDTH, "depth": BLOCKS, "num_heads": HEADS}
Tensors = dict[str, Tensor]


def of_attention(block: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensors:
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if mask is None else scores + mask
    named = {"q": q, "k": k, "v": v, "scores": scores, "softmax": scores.softmax(-1)}
    return {f"block.{block}.attn.{name}": tensor for name, tensor in named.items()}


class Attended:
    """What torch's attention function is fed in one forward pass, call by call."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor | None, float | None]] = []
        real = nn.functional.scaled_dot_product_attention

        def noted(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
            self.calls.append((q, k, v, attn_mask, options.get("scale")))
            return real(q, k, v, attn_mask=attn_mask, **options)

        patch.setattr(nn.functional, "scaled_dot_product_attention", noted)

    def tensors(self) -> Tensors:
        found: Tensors = {}
        for block, call in enumerate(self.calls):
            found |= of_attention(block, *call)
        return found


def timm_tensors(model: Any, seen: Seen) -> Tensors:
    """Of its modules; MLPs, which differ most, by their outermost maps."""
    final = model.norm if not isinstance(model.norm, nn.Identity) else model.fc_norm
    found = {
        "patch_embed": seen.out(model.patch_embed),
        "embed": seen.fed(model.blocks[0]),
        "norm": seen.out(final),
        "head": seen.logits,
    }
    for i, block in enumerate(model.blocks):
        found |= {f"block.{i}.norm1": seen.out(block.norm1), f"block.{i}.mlp.residual": seen.out(block)}
        if hasattr(block, "norm2"):
            found |= {f"block.{i}.norm2": seen.out(block.norm2), f"block.{i}.attn.residual": seen.fed(block.norm2)}
        found |= {
            f"block.{i}.attn.proj": seen.out(block.attn.proj),
            f"block.{i}.attn.context": seen.fed(block.attn.proj),
        }
        if hasattr(block.mlp, "fc1_g"):
            gate, value = seen.out(block.mlp.fc1_g), seen.out(block.mlp.fc1_x)
            found |= {f"block.{i}.mlp.fc1_gate": gate, f"block.{i}.mlp.fc1_value": value}
            found |= {f"block.{i}.mlp.gelu": seen.fed(block.mlp.norm), f"block.{i}.mlp.norm": seen.out(block.mlp.norm)}
        elif hasattr(block.mlp, "norm") and not isinstance(block.mlp.norm, nn.Identity):
            found |= {f"block.{i}.mlp.gelu": seen.fed(block.mlp.norm), f"block.{i}.mlp.norm": seen.out(block.mlp.norm)}
            found |= {f"block.{i}.mlp.fc1": seen.out(block.mlp.fc1)}
        elif hasattr(block.mlp, "fc1"):
            found |= {f"block.{i}.mlp.fc1": seen.out(block.mlp.fc1), f"block.{i}.mlp.gelu": seen.fed(block.mlp.fc2)}
        found |= {f"block.{i}.mlp.fc2": seen.out(block.mlp.fc2)}
    return found


def timm_distilled(model: Any, seen: Seen) -> Tensors:
    """Two heads, whose mean is the logits."""
    return timm_tensors(model, seen) | {"head": seen.out(model.head), "head_dist": seen.out(model.head_dist)}


def hugging_face_tensors(model: Any, seen: Seen) -> Tensors:
    vit = model.dinov2
    found = {
        "patch_embed": seen.out(vit.embeddings.patch_embeddings),
        "embed": seen.out(vit.embeddings),
        "norm": seen.out(vit.layernorm),
        "head": seen.logits,
    }
    for i, block in enumerate(layers_of(vit)):
        first, *_, last = [module for module in block.mlp.modules() if isinstance(module, nn.Linear)]
        dense = [module for module in block.attention.modules() if isinstance(module, nn.Linear)][-1]
        found |= {
            f"block.{i}.norm1": seen.out(block.norm1),
            f"block.{i}.norm2": seen.out(block.norm2),
            f"block.{i}.attn.context": seen.fed(dense),
            f"block.{i}.attn.proj": seen.out(dense),
            f"block.{i}.attn.residual": seen.fed(block.norm2),
            **hidden_maps(i, first, block.mlp, seen),
            f"block.{i}.mlp.gelu": seen.fed(last),
            f"block.{i}.mlp.fc2": seen.out(last),
            f"block.{i}.mlp.residual": seen.out(block),
        }
    return found


def hidden_maps(i: int, first: nn.Module, mlp: Any, seen: Seen) -> Tensors:
    """Of a gated MLP the gate and the value, each a map of its own."""
    maps = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    if len(maps) == 2:
        return {f"block.{i}.mlp.fc1": seen.out(first)}
    return {f"block.{i}.mlp.fc1_gate": seen.out(maps[0]), f"block.{i}.mlp.fc1_value": seen.out(maps[1])}


def layers_of(vit: Any) -> Any:
    return next(module for module in vit.encoder.modules() if isinstance(module, nn.ModuleList))


def simple_tensors(model: Any, seen: Seen) -> Tensors:
    transformer = model.transformer
    found = {"embed": seen.fed(transformer), "norm": seen.out(transformer.norm), "head": seen.logits}
    with torch.no_grad():  # what the module returned has the positions added to it, in place
        found["patch_embed"] = model.to_patch_embedding(torch.from_numpy(IMAGES))
    return found | vit_pytorch_blocks(transformer, seen)


def vit(**changes: Any) -> Callable[[], nn.Module]:
    return lambda: timm_model(**{name: made(imported) if callable(made) else made for name, made in changes.items()})


def of_timm(module: str, name: str, **changes: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(imported(f"timm.models.{module}"), name)(**BASE, **changes)


def dinov2(**changes: Any) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        library = imported("transformers")
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS}
        config = library.Dinov2Config(**sizes, image_size=16, patch_size=8, num_labels=5, **changes)
        made: nn.Module = library.Dinov2ForImageClassification(config)
        return made

    return model


def simple() -> nn.Module:
    library = imported("vit_pytorch.simple_vit")
    model: nn.Module = library.SimpleViT(
        image_size=16, patch_size=8, num_classes=5, dim=WIDTH, depth=BLOCKS, heads=HEADS, mlp_dim=64, dim_head=16
    )
    return model


FC1 = {f"block.{i}.mlp.fc1" for i in range(BLOCKS)}
HALVES = {f"block.{i}.mlp.fc1_{half}" for i in range(BLOCKS) for half in ("gate", "value")}
INNER_NORMS = {f"block.{i}.mlp.norm" for i in range(BLOCKS)}
Case = tuple[Callable[[], nn.Module], Callable[[Any, Seen], Tensors], set[str], dict[str, str]]
MORE = {  # names that a plain ViT has not
    "gated MLP of two maps": HALVES,
    "DeiT, distilled": {"head_dist"},
    "norm inside the MLP": INNER_NORMS,
    "EVA-02": HALVES | INNER_NORMS,
    "DINOv2, gated": HALVES,
}
CASES: dict[str, Case] = {  # model, oracle, sites that it has not, and what is told of them
    "gated MLP of two maps": (vit(mlp_layer=lambda f: f("timm.layers").SwiGLU), timm_tensors, FC1, {}),
    "gated MLP of one map": (vit(mlp_layer=lambda f: f("timm.layers").SwiGLUPacked), timm_tensors, set(), {}),
    "norm inside the MLP": (vit(scale_mlp_norm=True), timm_tensors, set(), {}),
    "EVA-02": (
        of_timm("eva", "Eva", use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True, ref_feat_shape=(2, 2)),
        timm_tensors,
        FC1,
        {},
    ),
    "BEiT": (of_timm("beit", "Beit", init_values=0.1, use_rel_pos_bias=True), timm_tensors, set(), {}),
    "DeiT, distilled": (
        of_timm("deit", "VisionTransformerDistilled"),
        timm_distilled,
        set(),
        {},
    ),
    "one register, no class token": (
        vit(reg_tokens=1, class_token=False, global_pool="avg"),
        timm_tensors,
        set(),
        {},
    ),
    "norms of q and k, layer scale": (vit(qk_norm=True, init_values=0.5), timm_tensors, set(), {}),
    "DINOv2": (dinov2(), hugging_face_tensors, set(), {}),
    "DINOv2, gated": (dinov2(use_swiglu_ffn=True), hugging_face_tensors, FC1, {}),
    "SimpleViT": (simple, simple_tensors, set(), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_name_is_the_librarys_own_tensor(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, oracle, lacking, told = CASES[name]
    torch.set_num_threads(1)
    model = randomised(make())
    plain = adopt(written(model, tmp_path / "vit.onnx", "torchscript")).plain
    found = catalogue(plain)
    sites = [site for site in found.recognised if site.where == "activation"]
    assert {site.name for site in sites} == (SITES - lacking) | MORE.get(name, set())
    assert found.missing == told
    attended = Attended(monkeypatch)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(IMAGES))
        wanted = attended.tensors() | oracle(model, seen)
    computed = site_values(session, plain, IMAGES, sites)
    for site in sites:
        want, have = wanted[site.name].numpy(), computed[site.name]
        if site.name.endswith("attn.k") and have.shape != want.shape:
            want = want.swapaxes(-1, -2)  # some files have k only as it enters the product
        np.testing.assert_allclose(
            have.reshape(len(have), -1), want.reshape(len(want), -1), rtol=1e-4, atol=1e-3, err_msg=site.name
        )


@pytest.mark.parametrize("name", CASES)
def test_every_named_weight_is_a_parameter_of_its_block(tmp_path: Path, name: str) -> None:
    model: Any = randomised(CASES[name][0]())
    plain = adopt(written(model, tmp_path / "vit.onnx", "torchscript")).plain
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(plain).graph.initializer}
    parameters = {n: p.detach().numpy().reshape(-1) for n, p in model.named_parameters()}
    if name == "SimpleViT":
        parameters["pos_embed"] = model.pos_embedding.numpy().reshape(-1)
    for site in catalogue(plain).recognised:
        if site.where != "weight" or (site.name.endswith("qkv.bias") and name in ("BEiT", "EVA-02")):  # put together
            continue
        array = stored[site.tensor].T if site.transposed else stored[site.tensor]
        same = [n for n, p in parameters.items() if p.size == array.size and np.array_equal(p, array.reshape(-1))]
        assert len(same) == 1, site.name
        number = re.search(r"(?:blocks|layers?)\.(\d+)\.", same[0])
        assert (int(number[1]) if number else None) == site.block, (site.name, same[0])
        for part in ("norm1", "norm2", "fc1", "fc2", "cls_token", "pos_embed", "patch_embed", "head"):
            if re.search(rf"(^|\.){part}(\.|$)", same[0]):
                assert part in site.name.split("."), (site.name, same[0])


def test_parallel_branches_have_numbers(session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = randomised(timm_model(block_fn=imported("timm.models.vision_transformer").ParallelThingsBlock))
    plain = adopt(written(model, tmp_path / "vit.onnx", "torchscript")).plain
    sites = [site for site in catalogue(plain).recognised if site.where == "activation"]
    attended = Attended(monkeypatch)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(IMAGES))
    wanted = {"patch_embed": seen.out(model.patch_embed), "norm": seen.out(model.norm), "head": seen.logits}
    wanted["embed"] = seen.fed(model.blocks[0])
    for i, block in enumerate(model.blocks):
        wanted[f"block.{i}.mlp.residual"] = seen.out(block)
        wanted[f"block.{i}.attn.residual"] = seen.fed(block.ffns[0].norm)
        for n, (attn, mlp) in enumerate(zip(block.attns, block.ffns, strict=True)):
            of_call = of_attention(i, *attended.calls[2 * i + n])
            wanted |= {name.replace(".attn.", f".attn.{n}."): tensor for name, tensor in of_call.items()}
            wanted |= {
                f"block.{i}.attn.{n}.norm": seen.out(attn.norm),
                f"block.{i}.attn.{n}.context": seen.fed(attn.attn.proj),
                f"block.{i}.attn.{n}.proj": seen.out(attn.attn.proj),
                f"block.{i}.mlp.{n}.norm": seen.out(mlp.norm),
                f"block.{i}.mlp.{n}.fc1": seen.out(mlp.mlp.fc1),
                f"block.{i}.mlp.{n}.gelu": seen.fed(mlp.mlp.fc2),
                f"block.{i}.mlp.{n}.fc2": seen.out(mlp.mlp.fc2),
            }
    check(session, plain, sites, wanted)


def test_attention_and_mlp_of_one_joint_share_norm_and_projection(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = randomised(timm_model(block_fn=imported("timm.models.vision_transformer").ParallelScalingBlock))
    plain = adopt(written(model, tmp_path / "vit.onnx", "torchscript")).plain
    found = catalogue(plain)
    attended = Attended(monkeypatch)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(IMAGES))
    wanted = {"patch_embed": seen.out(model.patch_embed), "norm": seen.out(model.norm), "head": seen.logits}
    wanted["embed"] = seen.fed(model.blocks[0])
    for i, block in enumerate(model.blocks):
        packed, hidden = seen.out(block.in_proj), block.mlp_out_proj.in_features
        wanted |= of_attention(i, *attended.calls[i]) | {
            f"block.{i}.norm1": seen.out(block.in_norm),
            f"block.{i}.in_proj": packed,
            f"block.{i}.mlp.fc1": packed[..., :hidden],
            f"block.{i}.mlp.gelu": seen.fed(block.mlp_out_proj),
            f"block.{i}.mlp.fc2": seen.out(block.mlp_out_proj),
            f"block.{i}.attn.context": seen.fed(block.attn_out_proj),
            f"block.{i}.attn.proj": seen.out(block.attn_out_proj),
            f"block.{i}.residual": seen.out(block),
        }
    check(session, plain, [site for site in found.recognised if site.where == "activation"], wanted)
    assert "block.1.in_proj.weight" in {site.name for site in found.recognised}


def check(session: Any, plain: bytes, sites: Any, wanted: Tensors) -> None:
    assert {site.name for site in sites} == wanted.keys()
    computed = site_values(session, plain, IMAGES, sites)
    for site in sites:
        want = wanted[site.name].detach().numpy()
        if site.name.endswith(".k") and computed[site.name].shape != want.shape:
            want = want.swapaxes(-1, -2)  # some files have k only as it enters the product
        np.testing.assert_allclose(
            computed[site.name], want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()), err_msg=site.name
        )


@pytest.mark.slow
def test_differential_attention_is_one_attention_a_block(session: Any, tmp_path: Path) -> None:
    model: Any = randomised(timm_model(attn_layer="diff"))
    plain = adopt(written(model, tmp_path / "vit.onnx", "dynamo")).plain
    found = catalogue(plain)
    sites = [site for site in found.recognised if site.where == "activation"]
    inside = {
        f"block.{i}.attn.{name}" for i in (0, 1) for name in ("q", "k", "v", "scores", "softmax", "context", "proj")
    }
    assert {site.name for site in sites} == SITES - inside
    assert found.missing == {f"block.{i}.attn": "an attention of a kind that is not recognised" for i in (0, 1)}
    with torch.no_grad():
        wanted = timm_tensors(model, Seen(model, torch.from_numpy(IMAGES)))
    computed = site_values(session, plain, IMAGES, sites)
    for site in sites:
        np.testing.assert_allclose(
            computed[site.name], wanted[site.name].numpy(), rtol=1e-4, atol=1e-3, err_msg=site.name
        )
