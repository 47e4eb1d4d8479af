"""An attention module cut out of a file: what it computes is the library's own module, at its ends and with a flip inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from testbed.instrument.adopt.file import adopt
from testbed.instrument.cut.module import AttentionModule, cut_attention
from testbed.instrument.ports.feed import GATED_REPLACE, PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.shapes import input_name, output_name
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.sites.named import named_sites
from testbed.instrument.table import deployment_id
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT
from testbed.semantics import as_words
from tests.instrument.conftest import CONFIGS
from tests.support.exporters import randomised, written
from tests.support.libraries import BLOCKS, HEADS, LIBRARIES, WIDTH, Seen, imported, timm_model
from tests.support.onnx_files import by_hand

IMAGES = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
SIZES = {"img_size": 16, "patch_size": 8, "num_classes": 5, "embed_dim": WIDTH, "depth": BLOCKS, "num_heads": HEADS}


def module_of(model: nn.Module, folder: Path, exporter: str, block: int) -> AttentionModule:
    return cut_attention(catalogue(adopt(written(model, folder / "vit.onnx", exporter)).plain), "vit.onnx", block)


def outputs(session: Any, module: AttentionModule, fed: NDArray) -> NDArray:
    """What the module's file gives for what it is fed."""
    onnx.checker.check_model(onnx.load_from_string(module.plain), full_check=True)
    found: NDArray = session(module.plain)({input_name(module.plain): fed})[output_name(module.plain)]
    return found


def kinds(module: AttentionModule) -> set[str]:
    return {site.name.removeprefix(f"block.{module.block}.attn.") for site in module.catalogue.recognised}


ALL = {"q", "k", "v", "scores", "softmax", "context", "proj"}
OF_LIBRARIES = [
    ("timm", "dynamo"),
    ("torchvision", "torchscript"),
    ("hugging face", "torchscript"),
    ("vit-pytorch", "torchscript"),
]


@pytest.mark.parametrize(("name", "exporter"), OF_LIBRARIES)
def test_it_computes_what_the_library_s_module_does(session: Any, tmp_path: Path, name: str, exporter: str) -> None:
    library = LIBRARIES[name]
    model = randomised(library.model())
    module = module_of(model, tmp_path, exporter, 1)
    eager = library.tensors(model, Seen(model, torch.from_numpy(IMAGES)))
    fed, wanted = (eager[f"block.1.{site}"].numpy() for site in ("norm1", "attn.proj"))
    np.testing.assert_allclose(outputs(session, module, fed), wanted, rtol=1e-5, atol=1e-5)
    assert kinds(module) >= ALL | {"proj.weight", "proj.bias"}
    assert all(site.block == 1 for site in module.catalogue.recognised)


def of_timm(module: str, name: str, **changes: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(imported(f"timm.models.{module}"), name)(**{**SIZES, **changes})


FAMILIES = {
    "relative position bias": of_timm("beit", "Beit", init_values=0.1, use_rel_pos_bias=True),
    "rotary positions, q, k and v apart": of_timm(
        "eva", "Eva", qkv_fused=False, use_rot_pos_emb=True, swiglu_mlp=True, ref_feat_shape=(2, 2)
    ),
    "norms of q and k, layer scale": lambda: timm_model(qk_norm=True, init_values=0.5),
    "talking heads": of_timm("cait", "Cait", depth_token_only=1),
    "norm behind": lambda: timm_model(block_fn=imported("timm.models.vision_transformer").ResPostBlock),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_kinds_of_attention_keep_what_they_need_inside(session: Any, tmp_path: Path, name: str) -> None:
    model: Any = randomised(FAMILIES[name]())
    module = module_of(model, tmp_path, "torchscript", 1)
    seen = Seen(model, torch.from_numpy(IMAGES))
    attention = model.blocks[1].attn
    fed, wanted = seen.fed(attention).numpy(), seen.out(attention).numpy()
    np.testing.assert_allclose(outputs(session, module, fed), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert kinds(module) >= ALL or name == "talking heads"  # whose maps are mixed


def test_a_flip_inside_is_that_of_the_whole_file_edited_by_hand(session: Any, tmp_path: Path) -> None:
    file = written(randomised(timm_model()), tmp_path / "vit.onnx", "dynamo", batch=2)
    plain = adopt(file).plain
    module = cut_attention(catalogue(plain), "vit.onnx", 1)
    table = SiteTable("attention", deployment_id(module.plain), GATED_REPLACE, module.catalogue.recognised)
    twin = session(instrument(module.plain, table).SerializeToString(), optimised=False)
    image = IMAGES[:1]
    golden = values(session, plain, image, [module.input, *(table[name].tensor for name in table.ports)])
    for number, name in enumerate(table.ports):
        site, index = table[name], 7 * number % table[name].elements
        word = int(as_words(golden[site.tensor].reshape(-1))[index]) ^ 1 << (30 - number)
        feed = PortFeed.writing(np.array([number]), np.array([index]), np.array([word], np.uint32))
        found = twin({input_name(module.plain): golden[module.input], **feed.as_inputs(table)})
        edited = values(session, with_word(plain, site, index, word), image, [module.output])
        assert np.array_equal(as_words(found[module.output]), as_words(edited[module.output])), name
        assert not np.array_equal(edited[module.output], golden[table["block.1.attn.proj"].tensor]), name


def values(session: Any, plain: bytes, images: NDArray, tensors: list[str]) -> dict[str, NDArray]:
    """What the whole file holds there, as it is written."""
    proto = onnx.load_from_string(plain)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors))
    found: dict[str, NDArray] = session(proto.SerializeToString(), optimised=False)({proto.graph.input[0].name: images})
    return found


def with_word(plain: bytes, site: Site, index: int, word: int) -> bytes:
    """The file, of which one element of a tensor is another number, for one image."""
    proto = onnx.load_from_string(plain)
    graph = proto.graph
    at = next(place for place, node in enumerate(graph.node) if site.tensor in node.output)
    outputs = graph.node[at].output
    outputs[list(outputs).index(site.tensor)] = "clean"
    mask = np.zeros((1, *site.shape), bool)
    mask.reshape(-1)[index] = True
    value = np.array([word], np.uint32).view(np.float32)[0]
    graph.initializer.extend([numpy_helper.from_array(mask, "hit"), numpy_helper.from_array(np.array(value), "faulty")])
    graph.node.insert(at + 1, helper.make_node("Where", ["hit", "faulty", "clean"], [site.tensor]))
    return bytes(proto.SerializeToString())


def test_of_our_own_file_it_is_our_own_subnetwork(session: Any, first: Any) -> None:
    torch.set_num_threads(1)
    model = first.module
    assert isinstance(model, ViT)
    for block in range(model.config.depth):
        module = cut_attention(catalogue(first.plain), "own.onnx", block)
        part = subnetwork(model, f"attention:{block}")
        fed = (
            np.random.default_rng(block)
            .standard_normal((3, model.config.tokens, model.config.width))
            .astype(np.float32)
        )
        with torch.no_grad():
            np.testing.assert_allclose(outputs(session, module, fed), part(torch.from_numpy(fed)), rtol=1e-5, atol=1e-5)
        weights = {
            site.name: site.shape for site in named_sites(onnx.load_from_string(module.plain)) if site.where == "weight"
        }
        assert {name: tuple(p.shape) for name, p in part.named_parameters()} == weights


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith(("post", "differential"))])
def test_of_other_orders_and_kinds_it_is_our_own_subnetwork_too(
    session: Any, export: Callable[[str], Any], name: str
) -> None:
    exported = export(name)
    model = exported.module
    module = cut_attention(catalogue(exported.plain), "own.onnx")
    fed = np.random.default_rng(0).standard_normal((3, model.config.tokens, model.config.width)).astype(np.float32)
    with torch.no_grad():
        wanted = subnetwork(model, "attention")(torch.from_numpy(fed)).numpy()
    np.testing.assert_allclose(outputs(session, module, fed), wanted, rtol=1e-5, atol=1e-5)


def test_the_windows_of_a_shifted_block_are_made_inside(session: Any, tmp_path: Path) -> None:
    model: Any = randomised(
        imported("timm.models.swin_transformer").SwinTransformer(
            img_size=16, patch_size=2, num_classes=5, embed_dim=16, depths=(2,), num_heads=(2,), window_size=4
        )
    )
    whole = catalogue(adopt(written(model, tmp_path / "swin.onnx", "torchscript")).plain)
    module = cut_attention(whole, "swin.onnx", 1)
    seen = Seen(model, torch.from_numpy(IMAGES))
    block = model.layers[0].blocks[1]
    wanted = seen.out(block.attn).numpy()  # window after window
    found = outputs(session, module, seen.out(block.norm1).numpy())
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)
    assert kinds(module) >= ALL


def test_what_cannot_be_cut_is_refused_in_one_line_that_says_what_to_do(first: Any) -> None:
    depth = first.module.config.depth
    with pytest.raises(UsageError, match=rf"no attention of a block {depth} is recognised; those of blocks 0, 1 are"):
        cut_attention(catalogue(first.plain), "own.onnx", depth)
    nameless = catalogue(by_hand([helper.make_node("Tanh", ["x"], ["y"])]))
    with pytest.raises(UsageError, match=r"some\.onnx: no block's attention is recognised"):
        cut_attention(nameless, "some.onnx", 0)
