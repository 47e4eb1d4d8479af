"""Faults in attention modules cut out of other libraries' files: evaluated as in the whole twin, whatever their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.campaign.evaluate.attention.evaluator import AttentionEvaluator, AttentionPaths
from testbed.campaign.evaluate.attention.gate import prove_attention
from testbed.campaign.evaluate.attention.graphs import KINDS
from testbed.core.site import SiteTable
from testbed.instrument.adopt.file import adopt
from testbed.instrument.cut.module import cut_attention
from testbed.instrument.ports.feed import GATED_REPLACE
from testbed.instrument.shapes import input_shape
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import deployment_id
from tests.support.attention_cases import IMAGES, Case, assert_same_outcomes, case_of_file, joined, together
from tests.support.exporters import randomised, written
from tests.support.libraries import LIBRARIES


def module_of(library: str, exporter: str, folder: Path) -> Case:
    torch.set_num_threads(1)
    file = written(randomised(LIBRARIES[library].model()), folder / "vit.onnx", exporter)
    module = cut_attention(catalogue(adopt(file).plain), file.name, 1)
    table = SiteTable("attention", deployment_id(module.plain), GATED_REPLACE, module.catalogue.recognised)
    return case_of_file(module.plain, table, input_shape(module.catalogue.proto))


@pytest.mark.parametrize(
    ("library", "turned", "by_rows"),
    [("timm", False, True), ("hugging face", True, True), ("torchvision", False, False)],
)
def test_what_is_proven_gives_the_whole_twin_s_outcomes(
    library: str, turned: bool, by_rows: bool, tmp_path: Path
) -> None:
    subject = module_of(library, "torchscript", tmp_path)
    sites = subject.target.sites
    assert (sites.turned, sites.by_rows) == (turned, by_rows)
    paths = AttentionPaths.of(prove_attention(subject.target, subject.whole, IMAGES, seed=7))
    if by_rows:
        assert set(paths.path.values()) <= {"rows", "incremental", "suffix"}
        assert paths.path["v"] == "incremental"
        assert paths.path["k"] == ("incremental" if turned else "suffix")  # timm's scale is computed from a shape
        assert paths.path["context"] == paths.path["softmax"] == "rows"
    else:
        assert paths.path == dict.fromkeys(KINDS, "suffix") | {"proj": "rows"}
    evaluator = AttentionEvaluator(subject.target, subject.whole, paths, np.full(IMAGES, 1e-6), 1e-5)
    injections = joined(*(subject.flips(kind, 40, seed=8) for kind in KINDS))
    assert_same_outcomes(subject, injections, together(evaluator, injections)[0], 1e-6, 1e-5)


def test_elements_of_turned_keys_are_those_of_the_file(tmp_path: Path) -> None:
    subject = module_of("hugging face", "torchscript", tmp_path)
    sites = subject.target.sites
    every = np.arange(sites.site["k"].elements)
    assert np.array_equal(sites.index_in("k", sites.stored_index("k", every)), every)
    stored = np.arange(len(every)).reshape(sites.site["k"].shape)
    assert np.array_equal(sites.turn("k", stored.astype(np.float32)).reshape(-1)[sites.index_in("k", every)], every)
    assert np.array_equal(sites.index_in("q", every), every)
