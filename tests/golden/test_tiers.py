import json

import numpy as np
import pytest
import torch

from testbed.analysis.outputs.confidence import TierEdges
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.manifest import checksummed
from testbed.golden.recorded import open_golden
from testbed.golden.recording import record_golden
from testbed.golden.tiers import edges_of, record_tiers, recorded_edges

from .conftest import sharp_model

FOUR = TierEdges.preset(4)


def test_every_correct_image_is_in_the_tier_of_its_margin(model_run):
    path = model_run()
    golden = record_golden(path)
    content = record_tiers(path, FOUR)
    shares = torch.from_numpy(np.array(golden.logits)).double().softmax(1)
    best = shares.topk(2).values
    margins = (best[:, 0] - best[:, 1]).numpy()
    right = golden.logits.argmax(1) == golden.labels
    assert content.correct == right.sum()
    assert content.incorrect == (~right).sum() == len(content.incorrect_images)
    for tier in content.tiers:
        inside = right & (margins > tier.low) & (margins <= tier.high)
        assert tier.images == [golden.ids[row] for row in np.flatnonzero(inside)]
        assert tier.images
    assert json.loads((path / "tiers.json").read_text()) == content.to_json()


def test_other_edges_replace_the_tiers(model_run):
    path = model_run()
    record_golden(path)
    record_tiers(path, FOUR)
    content = record_tiers(path, TierEdges((0.5, 1.0)))
    assert [(tier.low, tier.high) for tier in content.tiers] == [(0.0, 0.5), (0.5, 1.0)]
    assert json.loads((path / "tiers.json").read_text()) == content.to_json()
    assert recorded_edges(open_golden(path)) == TierEdges((0.5, 1.0))


def test_nan_logits_are_an_error_that_names_the_images(model_run):
    model = sharp_model()
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    path = model_run(model=model)
    record_golden(path, images=(7, 9))
    with pytest.raises(UsageError, match=r"2 image\(s\) hold NaN: digits/\d+, digits/\d+; they have no tier"):
        record_tiers(path, FOUR)
    assert not (path / "tiers.json").exists()


def test_tiers_need_a_golden(model_run):
    with pytest.raises(StaleArtefact, match=r"run `testbed golden .*` first"):
        record_tiers(model_run(), FOUR)


def test_a_campaign_is_only_read(campaign_run):
    before = sorted(campaign_run.rglob("*"))
    content = record_tiers(campaign_run, FOUR)
    assert sum(len(tier.images) for tier in content.tiers) == content.correct > 0
    assert sorted(campaign_run.rglob("*")) == before


@pytest.mark.parametrize(
    ("tiers", "edges", "expected"),
    [
        (None, None, (0.25, 0.5, 0.75, 1.0)),
        (4, None, (0.25, 0.5, 0.75, 1.0)),
        (5, None, (0.2, 0.4, 0.6, 0.8, 1.0)),
        (None, ".5,.9,1", (0.5, 0.9, 1.0)),
        (None, "1", (1.0,)),
    ],
)
def test_edges_from_the_options(tiers, edges, expected):
    assert edges_of(tiers, edges).edges == expected


@pytest.mark.parametrize(
    ("tiers", "edges", "said"),
    [
        (3, None, "presets for 4 and 5"),
        (4, ".5,1", "not both"),
        (None, ".5,x,1", "write numbers separated by commas"),
        (None, ".5,.5,1", "must ascend"),
        (None, ".9,.5,1", "must ascend"),
        (None, ".5,.9", "must ascend"),
        (None, "nan,1", "must ascend"),
        (None, "", "write numbers"),
    ],
)
def test_edges_that_are_none(tiers, edges, said):
    with pytest.raises(UsageError, match=said):
        edges_of(tiers, edges)


@pytest.mark.parametrize("inputs", [{}, {"edges": None}, {"edges": [2.0, 1.0]}, {"edges": []}, {"edges": ["a"]}])
def test_edges_of_another_writer_are_refused_with_the_command_that_makes_them(model_run, inputs):
    path = model_run()
    record_golden(path)
    record_tiers(path, FOUR)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["stages"]["tiers"]["inputs"] = inputs
    (path / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    with pytest.raises(StaleArtefact, match=r"stage 'tiers': .*run `testbed tiers .*` again"):
        recorded_edges(open_golden(path))
