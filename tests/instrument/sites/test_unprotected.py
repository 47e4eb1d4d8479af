"""A protected file of others: its sites are recognised as those of the file it was made from, and its checks are sites too."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from testbed.core.protected import PROTECTION
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.sites.unprotected import without_protection
from tests.support.protected import foreign, plain_files, protect, tiny_model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return foreign(plain_files(tiny_model(), tmp_path_factory.mktemp("plain"))["fp32"])


def test_sites_are_recognised_behind_clips_and_checks(plain: bytes) -> None:
    before = catalogue(plain)
    tensors = {site.name: site.tensor for site in before.recognised}
    clips = {
        tensors[f"block.0.{site}"]: 4.0 for site in ("mlp.fc1", "mlp.gelu", "attn.softmax", "mlp.residual", "attn.proj")
    }
    after = catalogue(protect(plain, clips=clips, checks={tensors["block.0.mlp.fc1"]: 99.0}))
    own = [site for site in after.recognised if not site.name.startswith("protect.")]
    assert [(site.name, site.tensor, site.shape) for site in own] == [
        (site.name, site.tensor, site.shape) for site in before.recognised
    ]
    assert dict(after.missing) == dict(before.missing)
    checks = {site.name for site in after.recognised} - {site.name for site in own}
    assert {"protect.flag.0", *(f"protect.range.{tensor}" for tensor in clips)} <= checks
    assert f"protect.range.{tensors['block.0.mlp.fc1']}.high" in checks


def test_the_plain_graph_is_what_is_left(plain: bytes) -> None:
    tensors = {site.name: site.tensor for site in catalogue(plain).recognised}
    protected = protect(
        plain, clips={tensors["head"]: 50.0, tensors["block.0.mlp.gelu"]: 4.0}, checks={tensors["embed"]: 9e9}
    )
    left, was = without_protection(onnx.load_from_string(protected)).graph, onnx.load_from_string(plain).graph
    assert [(node.op_type, list(node.input), list(node.output)) for node in left.node] == [
        (node.op_type, list(node.input), list(node.output)) for node in was.node
    ]
    assert [value.name for value in left.output] == [value.name for value in was.output]


def test_a_file_that_is_not_protected_is_left_alone(plain: bytes) -> None:
    proto = onnx.load_from_string(plain)
    assert without_protection(proto) is proto
    helper.set_model_props(proto, {PROTECTION: "[]"})
    assert without_protection(proto) is not proto
