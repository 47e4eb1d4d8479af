"""Plain ONNX: it computes the model, its tensors carry the sites' names, its initializers are the parameters."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from testbed.core.errors import TestbedError
from testbed.export.onnx import OPSET, export_onnx
from testbed.instrument.ports.feed import PortFeed
from testbed.models.vit import Tap, taps


def test_every_weight_is_one_initializer_with_one_consumer(exported: Any) -> None:
    graph = onnx.load_from_string(exported.plain).graph
    uses = Counter(name for node in graph.node for name in node.input)
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for name, parameter in exported.module.named_parameters():
        site = exported.table[name]
        assert uses[name] == 1
        assert site.shape == tuple(parameter.shape)
        values = stored[name].T if site.transposed else stored[name]
        np.testing.assert_array_equal(values, parameter.detach().numpy(), strict=True)


def test_every_element_of_a_weight_is_found_at_its_stored_index(exported: Any) -> None:
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(exported.plain).graph.initializer}
    for name, parameter in exported.module.named_parameters():
        values, site = parameter.detach().numpy().reshape(-1), exported.table[name]
        for index in range(0, site.elements, max(1, site.elements // 7)):
            assert stored[site.tensor].reshape(-1)[site.stored_index(index)] == values[index]


def test_the_weights_listed_are_the_models_own(exported: Any) -> None:
    listed = {site.name for site in exported.table if site.where == "weight"}
    own = {name for name, _ in exported.module.named_parameters()}
    fixed = {name for name, _ in exported.module.named_buffers()}  # a sinusoidal table can be struck, too
    assert own <= listed <= own | fixed


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_plain_onnx_is_the_torch_model_at_every_batch_size(exported: Any, session: Any, rows: int) -> None:
    plain = session(exported.plain)
    with torch.no_grad():
        wanted = exported.module(torch.from_numpy(exported.example[:rows])).numpy()
    (output,) = plain({exported.input_name: exported.example[:rows]}).values()
    np.testing.assert_allclose(output, wanted, rtol=0, atol=1e-5)


def test_every_site_is_the_tensor_its_tap_sees(exported: Any) -> None:
    seen: dict[str, np.ndarray] = {}
    handles = [
        tap.register_forward_hook(lambda tap, _, output: seen.update({tap.site: output.numpy()}))
        for tap in taps(exported.module).values()
    ]
    with torch.no_grad():
        exported.module(torch.from_numpy(exported.example))
    for handle in handles:
        handle.remove()
    activations = [site for site in exported.table if site.where == "activation"]
    assert {site.name for site in activations} == set(seen)
    found = exported.probe(exported.feeds(PortFeed.idle(3)))
    for site in activations:
        assert site.shape == seen[site.name].shape[1:]
        np.testing.assert_allclose(found[site.name], seen[site.name], rtol=0, atol=1e-5, err_msg=site.name)


def test_exporting_again_gives_the_same_bytes_and_nothing_of_this_machine(export: Any, tmp_path: Path) -> None:
    first = export("attention")
    example = torch.from_numpy(first.example)
    export_onnx(first.module, example, tmp_path / "again.onnx", input_name=first.input_name)
    assert (tmp_path / "again.onnx").read_bytes() == first.plain
    assert str(Path(torch.__file__).parents[1]).encode() not in first.plain
    assert onnx.load_from_string(first.plain).opset_import[0].version == OPSET


class Twice(torch.nn.Module):
    """One weight in two places: a fault there would strike twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = torch.nn.Linear(4, 4), Tap("head")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.layer(x)))


def test_a_weight_that_is_used_twice_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match=r"weight layer\.weight has 2 consumers in the ONNX graph .* exactly one"):
        export_onnx(Twice(), torch.zeros(2, 4), tmp_path / "plain.onnx", input_name="x")
    assert list(tmp_path.iterdir()) == []
