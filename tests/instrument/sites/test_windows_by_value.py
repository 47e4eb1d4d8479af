"""Attention in windows and in stages: every name is the library's own tensor, by value, one image's windows together.

Oracle: forward hooks on the torch modules, and what is fed to torch's attention functions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.feed import PortFeed, as_words
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.shapes import per_image
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import site_table
from tests.support.attended import Attended
from tests.support.exporters import randomised, written
from tests.support.libraries import Seen, imported
from tests.support.onnx_files import site_values

SIZE = 32
IMAGES = np.random.default_rng(1).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
Tensors = dict[str, Tensor]
Oracle = Callable[[Any, Seen, Attended], Tensors]
IN_ATTENTION = ("q", "k", "v", "scores", "softmax", "context", "proj", "residual")


def swin() -> nn.Module:
    sizes = {"img_size": SIZE, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 5}
    model: nn.Module = imported("timm.models.swin_transformer").SwinTransformer(window_size=4, **sizes)
    return model


def swin_v2() -> nn.Module:
    sizes = {"img_size": SIZE, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 5}
    model: nn.Module = imported("timm.models.swin_transformer_v2").SwinTransformerV2(window_size=4, **sizes)
    return model


def torchvision_swin() -> nn.Module:
    sizes = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "num_classes": 5}
    library = imported("torchvision.models.swin_transformer")
    model: nn.Module = library.SwinTransformer(patch_size=[4, 4], window_size=[4, 4], **sizes)
    return model


def blocks_of(model: Any) -> list[Any]:
    """Blocks of all stages, in their order."""
    stages = [stage.blocks for stage in model.layers] if hasattr(model, "layers") else list(model.features)[1::2]
    return [block for stage in stages for block in stage]


def of_swin(model: Any, seen: Seen, attended: Attended) -> Tensors:
    found = {"embed": seen.out(model.patch_embed), "norm": seen.out(model.norm), "head": seen.logits}
    for i, block in enumerate(blocks_of(model)):
        first, second, proj = block.mlp.fc1, block.mlp.fc2, block.attn.proj
        found |= in_windows(i, block, seen, attended)
        found |= {
            f"block.{i}.norm1": seen.out(block.norm1),
            f"block.{i}.norm2": seen.out(block.norm2),
            f"block.{i}.attn.context": seen.fed(proj),
            f"block.{i}.attn.proj": seen.out(proj),
            f"block.{i}.mlp.fc1": seen.out(first),
            f"block.{i}.mlp.gelu": seen.fed(second),
            f"block.{i}.mlp.fc2": seen.out(second),
            f"block.{i}.attn.residual": seen.fed(block.mlp if attended.normalised else block.norm2),
            f"block.{i}.mlp.residual": seen.out(block),
        }
    return found


def in_windows(i: int, block: Any, seen: Seen, attended: Attended) -> Tensors:
    """q and k of cosine attention are those of length one, which enter the product."""
    scores = seen.fed(block.attn.softmax)
    windows, heads, tokens, _ = scores.shape
    bias = torch.cat([block.attn.q_bias, block.attn.k_bias, block.attn.v_bias]) if attended.normalised else None
    qkv = block.attn.qkv(seen.fed(block.attn)) if bias is None else block.attn.qkv(seen.fed(block.attn)) + bias
    q, k, v = qkv.reshape(windows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    if attended.normalised:
        q, k = attended.normalised[2 * i : 2 * i + 2]
    named = {"q": q, "k": k, "v": v, "scores": scores, "softmax": seen.out(block.attn.softmax)}
    return {f"block.{i}.attn.{name}": tensor for name, tensor in named.items()}


def of_torchvision(model: Any, seen: Seen, attended: Attended) -> Tensors:
    found = {"embed": seen.out(model.features[0]), "norm": seen.out(model.norm), "head": seen.logits}
    for i, block in enumerate(blocks_of(model)):
        found |= attended.mapped(i)
        found |= {
            f"block.{i}.norm1": seen.out(block.norm1),
            f"block.{i}.norm2": seen.out(block.norm2),
            f"block.{i}.mlp.fc1": seen.out(block.mlp[0]),
            f"block.{i}.mlp.gelu": seen.out(block.mlp[1]),
            f"block.{i}.mlp.fc2": seen.out(block.mlp[3]),
            f"block.{i}.attn.residual": seen.fed(block.norm2),
            f"block.{i}.mlp.residual": seen.out(block),
        }
    return found


CASES: dict[str, tuple[Callable[[], nn.Module], Oracle]] = {
    "Swin": (swin, of_swin),
    "SwinV2": (swin_v2, of_swin),
    "Swin of torchvision": (torchvision_swin, of_torchvision),
}
NOT_SEEN = {"Swin of torchvision": ("q", "k", "v", "context", "proj")}  # one function makes them all


def file_of(name: str, tmp_path: Path, exporter: str = "torchscript") -> tuple[Any, bytes]:
    torch.set_num_threads(1)
    model = randomised(CASES[name][0]())
    file = written(model, tmp_path / "swin.onnx", exporter, size=SIZE)
    return model, adopt(file).plain


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_every_name_is_the_librarys_own_tensor(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, exporter: str
) -> None:
    model, plain = file_of(name, tmp_path, exporter)
    found = catalogue(plain)
    sites = [site for site in found.recognised if site.where == "activation"]
    in_block = [*(f"attn.{n}" for n in IN_ATTENTION), *(f"mlp.{n}" for n in ("fc1", "gelu", "fc2", "residual"))]
    in_blocks = {f"block.{i}.{n}" for i in range(4) for n in ("norm1", "norm2", *in_block)}
    assert {site.name for site in sites} == in_blocks | {"embed", "norm", "head"}
    assert set(found.missing) == {"patch_embed"}
    attended = Attended(monkeypatch)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(IMAGES))
        wanted = CASES[name][1](model, seen, attended)
    computed = site_values(session, plain, IMAGES, sites)
    for site in sites:
        if site.name.rpartition(".")[2] in NOT_SEEN.get(name, ()):
            continue
        assert_same(computed[site.name], wanted[site.name].numpy(), site)


def assert_same(have: NDArray[np.float32], want: NDArray[np.float32], site: Any) -> None:
    """Image by image, whatever the axes that an image's numbers are laid out in."""
    if site.name.endswith("attn.k") and have.shape != want.shape:
        want = want.swapaxes(-1, -2)  # some files have k only as it enters the product
    have, want = have.reshape(len(IMAGES), -1), want.reshape(len(IMAGES), -1)
    assert have.shape[1] == site.elements, site.name
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()), err_msg=site.name)


def test_windows_are_the_first_axis_of_their_sites(tmp_path: Path) -> None:
    _, plain = file_of("Swin", tmp_path)
    shapes = {site.name: site.shape for site in catalogue(plain).recognised}
    assert shapes["block.0.attn.q"] == (4, 2, 16, 8)  # windows, heads, tokens, width
    assert shapes["block.0.attn.scores"] == (4, 2, 16, 16)
    assert shapes["block.2.attn.q"] == (2, 16, 16)  # half as many pixels a side: one window is no window
    assert shapes["block.0.norm1"] == (8, 8, 16)


@pytest.mark.parametrize("mechanism", ["gated_replace", "xor"])
def test_a_fault_in_a_window_is_the_edited_file_and_touches_its_image_alone(
    session: Any, tmp_path: Path, mechanism: str
) -> None:
    _, plain = file_of("Swin", tmp_path)
    table = site_table(plain, "model", mechanism)

    def run(content: bytes) -> Any:
        return session(content, optimised=False)

    twin, site, index = run(instrument(plain, table).SerializeToString()), table["block.1.attn.scores"], 1000
    name = onnx.load_from_string(plain).graph.input[0].name
    golden = site_values(run, plain, IMAGES, [site])[site.name]
    word = as_words(golden.reshape(2, -1)[1:, index].copy())
    same, flipped = np.zeros(2, np.uint32), np.full(2, 1 << 30, np.uint32)
    feed = PortFeed(
        site=np.array([-1, table.ports[site.name]]),
        index=np.array([0, index]),
        and_mask=~same,
        or_mask=same,
        xor_mask=flipped,
        golden=np.repeat(word, 2),
    )
    faulty = twin({name: IMAGES, **feed.as_inputs(table)})[twin.outputs[0]]
    idle = twin({name: IMAGES, **PortFeed.idle(2).as_inputs(table)})[twin.outputs[0]]
    edited = golden.reshape(2, -1).copy()
    edited[1, index] = (word ^ np.uint32(1 << 30)).view(np.float32)[0]
    by_hand = session(resumed(plain, site.tensor), optimised=False)(
        {name: IMAGES, "edited": edited.reshape(golden.shape)}
    )
    np.testing.assert_array_equal(faulty.view(np.uint32), by_hand[twin.outputs[0]].view(np.uint32))
    assert (faulty[0] == idle[0]).all()
    assert (faulty[1] != idle[1]).any()


def resumed(plain: bytes, tensor: str) -> bytes:
    """The file, with what takes this tensor taking the input "edited" in its place."""
    proto = onnx.load_from_string(plain)
    for node in proto.graph.node:
        node.input[:] = ["edited" if taken == tensor else taken for taken in node.input]
    proto.graph.input.append(helper.make_tensor_value_info("edited", TensorProto.FLOAT, None))
    return bytes(proto.SerializeToString())


def test_tensors_whose_images_are_mixed_are_no_sites() -> None:
    """Tokens before images: what lies together in the leading axis is not one image's."""
    nodes = [
        helper.make_node("Reshape", ["x", "whole"], ["windows"]),
        helper.make_node("Reshape", ["x", "split"], ["split_x"]),
        helper.make_node("Transpose", ["split_x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["turned", "whole"], ["mixed"]),
        helper.make_node("Add", ["windows", "mixed"], ["y"]),
    ]
    stored = [
        onnx.numpy_helper.from_array(np.array(shape, np.int64), name)
        for name, shape in (("whole", [-1, 2]), ("split", [-1, 2, 2]))
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "by hand", [x], [y], stored)
    found = per_image(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    assert found["windows"].joined
    assert found["windows"].shape == (2, 2)
    assert "mixed" not in found
