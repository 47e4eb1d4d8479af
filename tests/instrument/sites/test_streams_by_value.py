"""Models with several streams: two patch sizes side by side, a class token that is a stream of its own.

Oracle: forward hooks on the libraries' modules, and what is fed to torch's attention functions. A site without one fails.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testbed.instrument.adopt.file import adopt
from testbed.instrument.cut.flow import Flow
from testbed.instrument.cut.stages import Stages
from testbed.instrument.sites.catalogue import Catalogue, catalogue
from testbed.instrument.table import table_of
from tests.support.attended import Attended
from tests.support.exporters import randomised, written
from tests.support.libraries import Seen, imported
from tests.support.onnx_files import assert_same_values, site_values

Tensors = dict[str, Tensor]
HEADS = 2
MAPS = ("q", "k", "v", "scores", "softmax", "context", "proj", "residual")
MLP = ("norm2", *(f"mlp.{name}" for name in ("fc1", "gelu", "fc2", "residual")))
OUTSIDE = ("patch_embed", "embed", "norm", "head")


def crossvit() -> nn.Module:
    """One block of large patches, two of small ones, and the class token of each asks the other's patches."""
    library = imported("timm.models.crossvit")
    model: nn.Module = library.CrossVit(
        img_size=32, img_scale=(1.0, 0.75), patch_size=(8, 12), num_classes=5, embed_dim=(32, 16), depth=((1, 2, 0),),
        num_heads=(2, 2), mlp_ratio=(2.0, 2.0, 1.0),
    )  # fmt: skip
    return model


def cait() -> nn.Module:
    model: nn.Module = imported("vit_pytorch.cait").CaiT(
        image_size=32, patch_size=8, num_classes=5, dim=32, depth=1, cls_depth=2, heads=HEADS, mlp_dim=48, dim_head=16
    )
    return model


def by_heads(x: Tensor) -> Tensor:
    """(B, N, D) -> (B, H, N, d)."""
    return x.reshape(len(x), -1, HEADS, x.shape[-1] // HEADS).transpose(1, 2)


def of_crossvit(model: Any, seen: Seen, attended: Attended) -> Tensors:
    (scales,) = model.blocks
    wanted: Tensors = {}
    for n, stream in enumerate(scales.blocks):
        before = {"patch_embed": seen.out(model.patch_embed[n]), "embed": seen.fed(stream[0])}
        after = {"norm": seen.out(model.norm[n]), "head": seen.out(model.head[n])}
        wanted |= {f"stream.{n}.{name}": tensor for name, tensor in (before | after).items()}
    blocks = [block for stream in scales.blocks for block in stream]
    for i, block in enumerate(blocks):
        named = {"norm1": seen.out(block.norm1), "norm2": seen.out(block.norm2), "mlp.residual": seen.out(block)}
        named |= {"attn.context": seen.fed(block.attn.proj), "attn.residual": seen.fed(block.norm2)}
        named |= {"mlp.fc1": seen.out(block.mlp.fc1), "mlp.gelu": seen.fed(block.mlp.fc2)}
        named |= {"attn.proj": seen.out(block.attn.proj), "mlp.fc2": seen.out(block.mlp.fc2)}
        wanted |= attended.tensors(i) | {f"block.{i}.{name}": tensor for name, tensor in named.items()}
    for n, block in enumerate(scales.fusion):
        attn, i = block.attn, len(blocks) + n
        named = {"norm1": seen.out(block.norm1), "attn.residual": seen.out(block)}
        named |= {f"attn.{part}": by_heads(seen.out(getattr(attn, f"w{part}"))) for part in "qkv"}
        named |= {"attn.context": seen.fed(attn.proj), "attn.proj": seen.out(attn.proj)}
        wanted |= attended.mapped(i, call=n) | {f"block.{i}.{name}": tensor for name, tensor in named.items()}
    return wanted


def of_cait(model: Any, seen: Seen, attended: Attended) -> Tensors:
    layers = [*model.patch_transformer.layers, *model.cls_transformer.layers]
    *_, patches, norm = model.to_patch_embedding  # what it returns is added to in its place
    wanted = {"patch_embed": norm(seen.out(patches)), "embed": seen.fed(layers[0][0])}
    wanted |= {"norm": seen.out(model.mlp_head[0]), "head": seen.logits}
    for i, (attention, mlp) in enumerate(layers):
        attn, net = attention.fn, mlp.fn.net
        k, v = seen.out(attn.to_kv).chunk(2, -1)
        q, k, v = map(by_heads, (seen.out(attn.to_q), k, v))
        mixed = torch.einsum("bhij,hg->bgij", seen.out(attn.attend), attn.mix_heads_post_attn)
        named = {"attn.q": q, "attn.k": k, "attn.v": v, "attn.product": q @ k.transpose(-2, -1) * attn.scale}
        named |= {"attn.mixed": mixed, "attn.context": seen.fed(attn.to_out[0]), "attn.proj": seen.out(attn.to_out[0])}
        named |= {"norm1": seen.out(attn.norm), "attn.residual": seen.fed(mlp), "norm2": seen.out(net[0])}
        named |= {"mlp.fc1": seen.out(net[1]), "mlp.gelu": seen.out(net[2]), "mlp.fc2": seen.out(net[4])}
        named |= {"mlp.residual": seen.out(mlp) + seen.fed(mlp)}
        wanted |= attended.mapped(i) | {f"block.{i}.{name}": tensor for name, tensor in named.items()}
    return wanted


def crossvit_names() -> set[str]:
    names = {f"stream.{n}.{name}" for n in (0, 1) for name in OUTSIDE}
    names |= {f"block.{i}.{name}" for i in range(5) for name in ("norm1", *(f"attn.{name}" for name in MAPS))}
    return names | {f"block.{i}.{name}" for i in range(3) for name in MLP}


def cait_names() -> set[str]:
    maps = (*MAPS, "product", "mixed")
    return {*OUTSIDE} | {
        f"block.{i}.{n}" for i in range(3) for n in ("norm1", *MLP, *(f"attn.{name}" for name in maps))
    }


Oracle = Callable[[Any, Seen, Attended], Tensors]
CASES: dict[str, tuple[Callable[[], nn.Module], Oracle, Callable[[], set[str]]]] = {
    "CrossViT": (crossvit, of_crossvit, crossvit_names),
    "CaiT": (cait, of_cait, cait_names),
}
EXPORTERS = ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_name_is_the_librarys_own_tensor(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, exporter: str
) -> None:
    make, oracle, names = CASES[name]
    torch.set_num_threads(1)
    model = randomised(make())
    plain = adopt(written(model, tmp_path / "model.onnx", exporter, size=32)).plain
    sites = [site for site in catalogue(plain).recognised if site.where == "activation"]
    assert {site.name for site in sites} == names()
    images = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    attended = Attended(monkeypatch)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(images))
        wanted = oracle(model, seen, attended)
    computed = site_values(session, plain, images, sites)
    # some files have k only as it enters the product
    assert_same_values(computed, wanted, len(images), turned=("attn.k",))


@pytest.fixture(scope="module")
def two_streams(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Catalogue]:
    torch.set_num_threads(1)
    model = randomised(crossvit())
    file = written(model, tmp_path_factory.mktemp("streams") / "model.onnx", "torchscript", size=32)
    return model, catalogue(adopt(file).plain)


def test_weights_before_and_after_the_blocks_are_their_streams_own(two_streams: tuple[Any, Catalogue]) -> None:
    model, found = two_streams
    stored = {tensor.name: tensor for tensor in found.proto.graph.initializer}
    own = {site.name: site.tensor for site in found.recognised if site.name.startswith("stream.")}
    parameters = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    for n in (0, 1):
        of_stream = {"cls_token": f"cls_token_{n}", "pos_embed": f"pos_embed_{n}"}
        for module, name in (("norm", "norm"), ("head", "head"), ("patch_embed", "patch_embed.proj")):
            inner = name.removeprefix(module)
            of_stream |= {f"{name}.{part}": f"{module}.{n}{inner}.{part}" for part in ("weight", "bias")}
        for name, parameter in of_stream.items():
            stored_array = np.frombuffer(stored[own[f"stream.{n}.{name}"]].raw_data, np.float32)
            assert np.array_equal(stored_array, parameters[parameter].reshape(-1)), name
    kinds = {site.kind for site in found.recognised if site.name.startswith("stream.")}
    assert kinds == {
        "patch_embedding", "embed", "layernorm", "head", "patch_embedding.weight", "patch_embedding.bias", "cls_token",
        "pos_embed", "layernorm.weight", "layernorm.bias", "head.weight", "head.bias",
    }  # fmt: skip


def test_streams_are_cut_together(two_streams: tuple[Any, Catalogue]) -> None:
    """No tensor has all of two streams: at a cut between blocks the other one goes past beside it."""
    _, found = two_streams
    plain = found.proto.SerializeToString()
    stages = Stages.of(Flow.of(found.proto), table_of(found, plain, "model", "gated_replace")).stages
    assert len(stages) == 7  # embedding, five blocks, head
    assert all(stage.beside_end for stage in stages[:-1])
    assert all(stage.rowed is None for stage in stages)
    for before, after in pairwise(stages):
        assert after.inputs == [before.end, *before.beside_end]
        assert {*before.outputs} <= {*after.inputs}


class OneHead(nn.Module):
    """A classifier of both class tokens together."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: Any = crossvit()
        self.both, self.classes = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = [stream[:, 0] for stream in self.streams.forward_features(images)]
        logits: Tensor = self.classes(self.both(torch.cat(tokens, 1)))
        return logits


def test_a_classifier_of_both_streams_has_no_number(session: Any, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model: Any = randomised(OneHead())
    plain = adopt(written(model, tmp_path / "model.onnx", "torchscript", size=32)).plain
    outside = [site for site in catalogue(plain).recognised if site.block is None and site.where == "activation"]
    assert {site.name for site in outside} == {
        "stream.0.embed", "stream.0.patch_embed", "stream.1.embed", "stream.1.patch_embed", "norm", "head",
    }  # fmt: skip
    images = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)
    seen = Seen(model, torch.from_numpy(images))
    computed = site_values(session, plain, images, outside)
    for name, module in (("norm", model.both), ("head", model.classes)):
        np.testing.assert_allclose(computed[name], seen.out(module).numpy(), rtol=1e-4, atol=1e-4)


def test_streams_that_begin_as_one_have_no_numbers(tmp_path: Path) -> None:
    """CoaT: what three scales do side by side after the serial blocks is not recognised, and nothing is said of it."""
    torch.set_num_threads(1)
    sizes = {"img_size": 32, "patch_size": 4, "embed_dims": (64,) * 4, "serial_depths": (1,) * 4, "parallel_depth": 1}
    model = randomised(imported("timm").create_model("coat_mini", num_classes=5, num_heads=8, **sizes))
    found = catalogue(adopt(written(model, tmp_path / "model.onnx", "torchscript", size=32)).plain)
    named = {site.name for site in found.recognised}
    assert {"embed", "head", "block.3.mlp.residual"} <= named
    assert {site.block for site in found.recognised} == {None, 0, 1, 2, 3}
    assert not [name for name in named if name.startswith("stream.")]
    assert found.missing["3 attentions"] == "outside the stream of blocks"
