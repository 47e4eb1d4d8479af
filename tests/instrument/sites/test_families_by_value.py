"""Families whose attention or stream is not the plain ViT's: every name is the library's own tensor, by value.

Oracle: forward hooks on the torch modules, and what is fed to torch's attention functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testbed.instrument.adopt.file import adopt
from testbed.instrument.sites.catalogue import catalogue
from tests.support.attended import Attended
from tests.support.exporters import randomised, written
from tests.support.libraries import Seen, imported
from tests.support.onnx_files import assert_same_values, site_values

Tensors = dict[str, Tensor]
Oracle = Callable[[Any, Seen, Attended], Tensors]
ATTENTION = ("q", "k", "v", "scores", "softmax", "context", "proj", "residual")
BLOCK = ("norm1", "norm2", *(f"attn.{n}" for n in ATTENTION), *(f"mlp.{n}" for n in ("fc1", "gelu", "fc2", "residual")))


def timm_model(module: str, name: str, **sizes: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(imported(f"timm.models.{module}"), name)(num_classes=5, **sizes)


def of_blocks(blocks: Sequence[Any], seen: Seen, first: int = 0) -> Tensors:
    """What is the same in all families. first: number of the first block."""
    found: Tensors = {}
    for i, block in enumerate(blocks, first):
        found |= {
            f"block.{i}.norm1": seen.out(block.norm1),
            f"block.{i}.norm2": seen.out(block.norm2),
            f"block.{i}.attn.context": seen.fed(block.attn.proj),
            f"block.{i}.attn.proj": seen.out(block.attn.proj),
            f"block.{i}.mlp.fc1": seen.out(block.mlp.fc1),
            f"block.{i}.mlp.gelu": seen.fed(block.mlp.fc2),
            f"block.{i}.mlp.fc2": seen.out(block.mlp.fc2),
            f"block.{i}.mlp.residual": seen.out(block),
        }
    return found


def outside(model: Any, seen: Seen, first: Any) -> Tensors:
    return {"embed": seen.fed(first), "norm": seen.out(model.norm), "head": seen.logits}


def by_heads(packed: Tensor, parts: int, heads: int) -> Tensor:
    """(B, N, parts D) -> (parts, B, H, N, d)."""
    return packed.reshape(*packed.shape[:2], parts, heads, -1).permute(2, 0, 3, 1, 4)


def of_cait(model: Any, seen: Seen, attended: Attended) -> Tensors:
    blocks, last = list(model.blocks), list(model.blocks_token_only)
    found = outside(model, seen, model.blocks[0]) | of_blocks(blocks, seen) | of_blocks(last, seen, len(blocks))
    found |= {"patch_embed": seen.out(model.patch_embed), "norm": seen.out(model.norm)}
    for i, block in enumerate(blocks):
        q, k, v = by_heads(seen.out(block.attn.qkv), 3, 2)
        named = {"q": q, "k": k, "v": v, "product": seen.fed(block.attn.proj_l)}
        named |= {"mixed": seen.out(block.attn.proj_w).permute(0, 3, 1, 2)}
        found |= {f"block.{i}.attn.{name}": tensor for name, tensor in named.items()} | attended.mapped(i)
    for number in range(len(last)):
        found |= attended.tensors(len(blocks) + number, call=number)
    for i, block in enumerate((*blocks, *last)):
        found[f"block.{i}.attn.residual"] = seen.fed(block.norm2)
    return found


def of_xcit(model: Any, seen: Seen, attended: Attended) -> Tensors:
    blocks, last = list(model.blocks), model.cls_attn_blocks[0]
    found = outside(model, seen, blocks[0]) | of_blocks(blocks, seen) | of_blocks([last], seen, len(blocks))
    for i, block in enumerate(blocks):
        q, k = attended.normalised[2 * i : 2 * i + 2]
        v = by_heads(seen.out(block.attn.qkv), 3, 2)[2].transpose(-2, -1)
        named = {"q": q, "k": k, "v": v}  # channels by tokens
        found |= {f"block.{i}.attn.{name}": tensor for name, tensor in named.items()} | attended.mapped(i)
        found |= {
            f"block.{i}.conv.0": seen.out(block.local_mp.conv1),
            f"block.{i}.conv.1": seen.out(block.local_mp.conv2),
            f"block.{i}.attn.residual": seen.fed(block.norm3),
        }
    found |= attended.tensors(len(blocks), call=0)
    return found | {f"block.{len(blocks)}.attn.residual": seen.fed(last.norm2)}


def of_hiera(model: Any, seen: Seen, attended: Attended) -> Tensors:
    found = of_blocks(model.blocks, seen) | {"norm": seen.out(model.head.norm), "head": seen.logits}
    found |= {"patch_embed": seen.out(model.patch_embed), "embed": seen.fed(model.blocks[0])}
    for i, block in enumerate(model.blocks):
        found |= attended.tensors(i) | {f"block.{i}.attn.residual": seen.fed(block.norm2)}
    return found


def of_pvt(model: Any, seen: Seen, attended: Attended) -> Tensors:
    blocks = [block for stage in model.stages for block in stage.blocks]
    found = {"embed": seen.fed(blocks[0]), "norm": seen.out(model.stages[-1].norm), "head": seen.logits}
    found |= of_blocks(blocks, seen)
    for i, block in enumerate(blocks):
        found |= attended.tensors(i) | {
            f"block.{i}.attn.residual": seen.fed(block.norm2),
            f"block.{i}.mlp.conv": seen.out(block.mlp.dwconv),
        }
    return found


def of_davit(model: Any, seen: Seen, attended: Attended) -> Tensors:
    blocks = [block for stage in model.stages for pair in stage.blocks for block in pair]
    found = {"embed": seen.fed(blocks[0].norm1), "head": seen.logits, "norm": seen.out(model.head.norm)}
    found |= of_blocks(blocks, seen)
    for i, block in enumerate(blocks):
        found[f"block.{i}.conv"] = seen.out(block.cpe2.proj)
        found[f"block.{i}.mlp.residual"] = seen.out(block).flatten(2).transpose(1, 2)
        found[f"block.{i}.attn.residual"] = seen.fed(block.cpe2).flatten(2).transpose(1, 2)
    return found


def of_coat(model: Any, seen: Seen, attended: Attended) -> Tensors:
    blocks = [block for n in range(1, 5) for block in getattr(model, f"serial_blocks{n}")]
    found = {"embed": seen.fed(blocks[0].norm1), "norm": seen.out(model.norm4), "head": seen.logits}
    for i, block in enumerate(blocks):
        attn = block.factoratt_crpe
        q, k, v = by_heads(seen.out(attn.qkv), 3, attn.num_heads)
        named = {"q": q, "k": k, "v": v, "softmax": attended.maps[i][1], "context": seen.fed(attn.proj)}
        named |= {"proj": seen.out(attn.proj), "residual": seen.fed(block.norm2)}
        found |= {f"block.{i}.attn.{name}": tensor for name, tensor in named.items()}
        found |= {
            f"block.{i}.norm1": seen.out(block.norm1),
            f"block.{i}.norm2": seen.out(block.norm2),
            f"block.{i}.mlp.fc1": seen.out(block.mlp.fc1),
            f"block.{i}.mlp.gelu": seen.fed(block.mlp.fc2),
            f"block.{i}.mlp.fc2": seen.out(block.mlp.fc2),
            f"block.{i}.mlp.residual": seen.out(block),
        }
    return found


CAIT = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
XCIT = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "cls_attn_layers": 1, "eta": 1.0}
HIERA = {"img_size": (64, 64), "embed_dim": 16, "num_heads": 1, "stages": (1, 1), "q_pool": 1, "mask_unit_size": (8, 8)}
PVT = {"embed_dims": (16, 32), "num_heads": (1, 2), "depths": (1, 2), "sr_ratios": (4, 2), "mlp_ratios": (2, 2)}
DAVIT = {"embed_dims": (16, 32), "num_heads": (2, 2), "depths": (1, 1), "window_size": 4}
COAT = {"img_size": 32, "patch_size": 4, "embed_dims": (32,) * 4, "serial_depths": (1,) * 4}


def linear_pvt() -> nn.Module:
    """With pools of a fixed size instead of a fixed number, which only one exporter writes."""
    sizes = PVT | {"depths": (1, 1), "linear": True}
    model: Any = timm_model("pvt_v2", "PyramidVisionTransformerV2", **sizes)()
    for stage in model.stages:
        for block in stage.blocks:
            block.attn.pool = nn.AvgPool2d(2)
    return model


Case = tuple[Callable[[], nn.Module], int, Oracle, int, set[str], set[str]]
DAVIT_UNSEEN = {f"block.{i}.attn.{n}" for i in range(4) for n in ("q", "k", "v", "scores", "softmax")}
CASES: dict[str, Case] = {  # model, image, oracle, blocks, more names, names that it has not
    "talking heads and class attention: CaiT": (
        timm_model("cait", "Cait", depth_token_only=1, **CAIT), 16, of_cait, 3,
        {"patch_embed", *(f"block.{i}.attn.{n}" for i in (0, 1) for n in ("product", "mixed"))}, set(),
    ),
    "attention between channels: XCiT": (
        timm_model("xcit", "Xcit", tokens_norm=True, patch_size=16, **XCIT), 32, of_xcit, 3,
        {f"block.{i}.conv.{n}" for i in (0, 1) for n in (0, 1)}, set(),
    ),
    "softmax of the keys alone: CoaT-Lite": (
        timm_model("coat", "CoaT", **COAT), 32, of_coat, 4, set(), {f"block.{i}.attn.scores" for i in range(4)},
    ),
    "pooled queries: Hiera": (timm_model("hiera", "Hiera", **HIERA), 64, of_hiera, 2, {"patch_embed"}, set()),
    "reduced keys, convolution in the MLP: PVTv2": (
        timm_model("pvt_v2", "PyramidVisionTransformerV2", **PVT), 32, of_pvt, 3,
        {f"block.{i}.mlp.conv" for i in range(3)}, set(),
    ),
    "activated keys and values: PVTv2 with linear attention": (
        linear_pvt, 40, of_pvt, 2, {f"block.{i}.mlp.conv" for i in range(2)}, set(),
    ),
    "convolutions between attention and MLP: DaViT": (
        timm_model("davit", "DaVit", **DAVIT), 32, of_davit, 4, {f"block.{i}.conv" for i in range(4)}, set(),
    ),
}  # fmt: skip
UNSEEN = {"convolutions between attention and MLP: DaViT": DAVIT_UNSEEN}  # functions of the library's own make them


NOT_BY_DYNAMO = ("pooled queries: Hiera",)  # which does not export it
EXPORTS = [
    *((name, "torchscript") for name in CASES),
    *(pytest.param(n, "dynamo", marks=pytest.mark.slow) for n in CASES if n not in NOT_BY_DYNAMO),
]


def test_separable_attention_is_named_without_scores(session: Any, tmp_path: Path) -> None:
    """MobileViTv2: one number a token instead of queries; its norms are of channels in one group."""
    torch.set_num_threads(1)
    model: Any = randomised(imported("timm").create_model("mobilevitv2_050", num_classes=5))
    plain = adopt(written(model, tmp_path / "model.onnx", "torchscript", size=64)).plain
    found = catalogue(plain)
    images = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    seen = Seen(model, torch.from_numpy(images))
    blocks = [module for module in model.modules() if type(module).__name__ == "LinearTransformerBlock"]
    wanted: Tensors = {}
    for i, block in enumerate(blocks):
        q, k, v = seen.out(block.attn.qkv_proj).split([1, *[block.attn.embed_dim] * 2], dim=1)
        named = {"q": q, "k": k, "v": v, "softmax": q.softmax(-1), "context": seen.fed(block.attn.out_proj)}
        named |= {"proj": seen.out(block.attn.out_proj), "residual": seen.fed(block.norm2)}
        wanted |= {f"block.{i}.attn.{name}": tensor for name, tensor in named.items()}
        wanted |= {f"block.{i}.norm1": seen.out(block.norm1), f"block.{i}.norm2": seen.out(block.norm2)}
        wanted |= {f"block.{i}.mlp.fc1": seen.out(block.mlp.fc1), f"block.{i}.mlp.residual": seen.out(block)}
    sites = [site for site in found.recognised if site.name in wanted]
    assert len(sites) == len(wanted) == 11 * len(blocks)
    assert found.missing["block.8.attn.scores"] == "queries and keys are not multiplied: the attention is linear"
    computed = site_values(session, plain, images, sites)
    for site in sites:
        want = wanted[site.name].detach().numpy().reshape(2, -1)
        atol = 1e-5 * max(1, np.abs(want).max())
        np.testing.assert_allclose(computed[site.name].reshape(2, -1), want, rtol=0, atol=atol, err_msg=site.name)


@pytest.mark.parametrize(("name", "exporter"), EXPORTS)
def test_every_name_is_the_librarys_own_tensor(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, exporter: str
) -> None:
    make, size, oracle, blocks, more, lacking = CASES[name]
    torch.set_num_threads(1)
    model = randomised(make())
    plain = adopt(written(model, tmp_path / "model.onnx", exporter, size=size)).plain
    sites = [site for site in catalogue(plain).recognised if site.where == "activation"]
    plain_names = {f"block.{i}.{n}" for i in range(blocks) for n in BLOCK} | {"embed", "norm", "head"}
    assert {site.name for site in sites} == (plain_names | more) - lacking
    images = np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32)
    attended = Attended(monkeypatch)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(images))
        wanted = oracle(model, seen, attended)
    seen_sites = [site for site in sites if site.name not in UNSEEN.get(name, ())]
    computed = site_values(session, plain, images, seen_sites)
    # some files have k only as it enters the product
    assert_same_values(computed, wanted, len(images), turned=("attn.k", "attn.softmax"))
