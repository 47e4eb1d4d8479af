"""Sites found in files of other exporters are the tensors that the library's own modules compute, under the right names.

Oracle: forward hooks on the torch modules, and by hand what no module returns (q, k, v, scores, maps).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.feed import NO_SITE, PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import Catalogue, catalogue
from testbed.instrument.sites.named import named_sites
from testbed.instrument.table import deployment_id, site_table
from tests.support.exporters import randomised, written
from tests.support.libraries import LIBRARIES, SITES, Library, Seen, imported, timm_model
from tests.support.onnx_files import scrambled, site_values

EXPORTERS = ("dynamo", "torchscript")


@dataclass(frozen=True)
class Foreign:
    """A library's model and a file of it. images: three of them, (3, 3, 16, 16)."""

    library: Library
    model: nn.Module
    file: Path
    images: NDArray[np.float32]

    @property
    def catalogue(self) -> Catalogue:
        return catalogue(adopt(self.file).plain)


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Foreign]:
    """By library and exporter, each made once."""
    made: dict[tuple[str, str], Foreign] = {}

    def file(name: str, exporter: str) -> Foreign:
        if (name, exporter) not in made:
            torch.set_num_threads(1)
            library = LIBRARIES[name]
            model = randomised(library.model())
            path = written(model, tmp_path_factory.mktemp("foreign") / "vit.onnx", exporter)
            images = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
            made[name, exporter] = Foreign(library, model, path, images)
        return made[name, exporter]

    return file


SOME_SLOW = [
    pytest.param(name, exporter, marks=[pytest.mark.slow] if slow else [])
    for name in LIBRARIES
    for exporter in EXPORTERS
    if [slow := exporter == "dynamo" and name in ("torchvision", "vit-pytorch")]
]
every_file = pytest.mark.parametrize(("name", "exporter"), SOME_SLOW)


# ---- the tests


@every_file
def test_every_site_is_the_tensor_that_the_librarys_modules_compute(
    foreign: Any, session: Any, name: str, exporter: str
) -> None:
    file = foreign(name, exporter)
    found = file.catalogue
    activations = [site for site in found.recognised if site.where == "activation"]
    assert {site.name for site in activations} == SITES
    assert not found.missing
    with torch.no_grad():
        wanted = file.library.tensors(file.model, Seen(file.model, torch.from_numpy(file.images)))
    computed = site_values(session, adopt(file.file).plain, file.images, activations)
    for site in activations:
        want = wanted[site.name].numpy()
        if site.name.endswith("attn.k") and site.shape != want.shape[1:]:
            want = want.swapaxes(-1, -2)  # some files have k only as it enters the product
        assert site.shape == want.shape[1:], site.name
        np.testing.assert_allclose(computed[site.name], want, rtol=0, atol=1e-5, err_msg=site.name)


@every_file
def test_every_parameter_of_the_library_is_a_weight_under_our_name(foreign: Any, name: str, exporter: str) -> None:
    file = foreign(name, exporter)
    plain = adopt(file.file).plain
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(plain).graph.initializer}
    parameters = {n: p.detach().numpy() for n, p in file.model.named_parameters()}
    weights = [site for site in catalogue(plain).recognised if site.where == "weight"]
    assert len(weights) == len(parameters)
    for site in weights:
        theirs = site.name
        for ours, replacement in file.library.renamed.items():
            theirs = re.sub(ours, replacement, theirs)
        want = parameters.pop(theirs)
        flat = stored[site.tensor].reshape(-1)
        assert site.elements == want.size
        if site.shape != want.shape:  # a class token may be stored with more or fewer dimensions of one
            assert [n for n in site.shape if n > 1] == [n for n in want.shape if n > 1], site.name
        for index in range(0, site.elements, max(1, site.elements // 7)):
            assert flat[site.stored_index(index)] == want.reshape(-1)[index], site.name
    assert not parameters


@every_file
def test_a_twin_with_idle_ports_is_the_file_bit_for_bit(foreign: Any, session: Any, name: str, exporter: str) -> None:
    file = foreign(name, exporter)
    plain = adopt(file.file).plain
    table = site_table(plain, "model")
    twin = session(instrument(plain, table).SerializeToString(), optimised=False)
    fed = {onnx.load_from_string(plain).graph.input[0].name: file.images}
    (wanted,) = session(plain, optimised=False)(fed).values()
    outputs = twin({**fed, **PortFeed.idle(3).as_inputs(table)})
    np.testing.assert_array_equal(outputs[twin.outputs[0]].view(np.uint32), wanted.view(np.uint32))


def test_each_port_changes_one_row_and_reaches_the_output(foreign: Any, session: Any) -> None:
    file = foreign("timm", "torchscript")
    plain = adopt(file.file).plain
    table = site_table(plain, "model")
    twin = session(instrument(plain, table).SerializeToString())
    golden = twin({"images": file.images, **PortFeed.idle(3).as_inputs(table)})["logits"]
    for site, port in table.ports.items():
        feed = PortFeed.writing(
            np.array([NO_SITE, port, NO_SITE]), np.zeros(3, np.int64), np.full(3, 0x41200000, np.uint32)
        )
        faulty = twin({"images": file.images, **feed.as_inputs(table)})["logits"]
        rows = (faulty.view(np.uint32) != golden.view(np.uint32)).any(1)
        assert rows.tolist() == [False, True, False], site  # element 0 is the class token's: it always reaches the head


# ---- other ViTs of one library


VARIANTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "no class token, mean of patches": lambda vit: {"class_token": False, "global_pool": "avg"},
    "registers, positions of patches only": lambda vit: {"reg_tokens": 4, "no_embed_class": True},
    "norms of q and k, layer scale": lambda vit: {"qk_norm": True, "init_values": 0.5},
    "norms at the end of each branch": lambda vit: {"block_fn": vit.ResPostBlock},
    "norm before the blocks": lambda vit: {"pre_norm": True},
    "pooled by attention, which is no block": lambda vit: {"global_pool": "map", "class_token": False},
    "another activation function": lambda vit: {"act_layer": "quick_gelu"},
    "gated MLP": lambda vit: {"mlp_layer": imported("timm.layers").SwiGLUPacked},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_architectures(session: Any, tmp_path: Path, variant: str) -> None:
    vit = imported("timm.models.vision_transformer")
    model: Any = randomised(timm_model(**VARIANTS[variant](vit)))
    plain = adopt(written(model, tmp_path / "vit.onnx", "torchscript")).plain
    found = [site for site in catalogue(plain).recognised if site.where == "activation"]
    assert {site.name for site in found} == SITES
    images = np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)
    computed = site_values(session, plain, images, found)
    with torch.no_grad():
        seen = Seen(model, torch.from_numpy(images))
    wanted = {"embed": seen.fed(model.blocks[0]), "head": seen.logits}
    for i, block in enumerate(model.blocks):
        wanted |= {f"block.{i}.{name}": seen.out(getattr(block, name)) for name in ("norm1", "norm2")}
        wanted |= {
            f"block.{i}.mlp.gelu": seen.fed(block.mlp.fc2),
            f"block.{i}.mlp.fc1": seen.out(block.mlp.fc1),
            f"block.{i}.attn.context": seen.fed(block.attn.proj),
            f"block.{i}.mlp.residual": seen.out(block),
        }
    for name, tensor in wanted.items():
        np.testing.assert_allclose(computed[name], tensor.numpy(), rtol=1e-4, atol=1e-3, err_msg=name)


# ---- exports of our own, with nothing left of their names


UNNAMED = {  # what a pattern does not tell: positions in two tables, a mix of two softmaxes
    "pre-norm, unequal blocks": set(),
    "post-norm, conv, sinusoidal, mean": {"pos_table"},
    "differential, 2d, mean of patches": {"pos_row", "pos_column", "block.0.attn.mix"},
    "pruned, no CLS, no positions": {"patch_embed"},
}


@pytest.mark.parametrize("name", UNNAMED)
def test_our_own_exports_are_recognised_without_their_names(export: Any, name: str) -> None:
    plain = export(name).plain
    content, renamed = scrambled(plain)
    found = {site.name: site for site in catalogue(content).recognised}
    own = {site.name: site for site in named_sites(onnx.load_from_string(plain))}
    assert own.keys() - found.keys() == UNNAMED[name]
    assert found.keys() - own.keys() <= {"pos_embed"}
    halves = {"block.0.attn.q", "block.0.attn.k"} if name.startswith("differential") else set()  # struck as halves
    for site in found.keys() & own.keys() - halves:
        assert found[site].tensor == renamed[own[site].tensor], site
        assert (found[site].shape, found[site].transposed) == (own[site].shape, own[site].transposed), site


def test_the_table_of_a_foreign_file_carries_its_deployment_id(foreign: Any) -> None:
    content = foreign("timm", "torchscript").file.read_bytes()
    assert site_table(content, "model").deployment_id == deployment_id(content)
