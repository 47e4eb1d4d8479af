import json

import numpy as np
import pytest

from testbed.analysis.outputs.confidence import TierEdges
from testbed.core.errors import StaleArtefact, UsageError
from testbed.golden.recorded import open_golden
from testbed.golden.recording import record_golden
from testbed.golden.source import dataset_of
from testbed.golden.subset import SubsetChoice, record_subset, recorded_subset
from testbed.golden.tiers import record_tiers

FILES = ["golden/logits.npy", "golden/block.0.attn.input.npy", "golden/block.0.attn.output.npy"]


@pytest.fixture
def tiered(model_run):
    """(path, golden, tiers' content) of images 10 to 718."""
    path = model_run()
    golden = record_golden(path, images=(10, 719))
    return path, golden, record_tiers(path, TierEdges.preset(4))


def test_the_first_of_each_tier_in_data_set_order(tiered):
    path, golden, tiers = tiered
    content = record_subset(path, per_tier=[2, 0, 1, 3])
    wanted = [name for tier, n in zip(tiers.tiers, [2, 0, 1, 3], strict=True) for name in tier.images[:n]]
    assert content.ids == wanted
    assert content.images == 6
    test = golden.split
    assert [test.ids[position - 10] for position in content.positions] == wanted
    assert content.labels == [int(test.labels[position - 10]) for position in content.positions]
    assert json.loads((path / "subset.json").read_text()) == content.to_json()


def test_a_stratified_choice_has_the_classes_of_each_tier(model_run, by_class):
    path = model_run(data=by_class)
    golden = record_golden(path, images=300)
    tiers = record_tiers(path, TierEdges.preset(4))
    sizes = [min(6, len(tier.images)) for tier in tiers.tiers]
    content = record_subset(path, per_tier=sizes, stratified=True, seed=2)
    labels = dict(zip(golden.ids, golden.labels.tolist(), strict=True))
    start = 0
    for tier, size in zip(tiers.tiers, sizes, strict=True):
        mine = content.ids[start : start + size]
        assert set(mine) <= set(tier.images)
        assert len({labels[image] for image in mine}) == min(size, len({labels[image] for image in tier.images}))
        start += size
    assert content.chosen_by.choice == SubsetChoice(by="class", seed=2)
    subset = recorded_subset(open_golden(path))
    assert subset is not None
    assert [golden.split.ids[row] for row in subset.rows] == content.ids
    assert [dataset_of(golden.run).test.ids[p] for p in content.positions] == content.ids
    assert record_subset(path, per_tier=sizes).to_json()["choice"] == {"by": "data set order"}
    with pytest.raises(UsageError, match="no range of the test images but a choice"):
        record_subset(path, positions=(0, 5))


def test_a_range_counts_positions_in_the_data_set(tiered):
    path, golden, _ = tiered
    content = record_subset(path, positions=(20, 23))
    assert content.positions == [20, 21, 22]
    assert content.ids == golden.ids[10:13]


@pytest.mark.parametrize("chosen", [{"per_tier": [1, 2, 0, 3]}, {"positions": (100, 400)}])
def test_its_arrays_are_those_rows_of_the_golden(tiered, chosen, monkeypatch):
    monkeypatch.setattr("testbed.golden.subset.CHUNK_BYTES", 50_000)  # several chunks of several rows
    path, golden, _ = tiered
    content = record_subset(path, **chosen)
    subset = recorded_subset(open_golden(path))
    assert subset is not None
    assert content.files == [file.replace("golden/", "subset/") for file in FILES]
    assert subset.rows.tolist() == [position - 10 for position in content.positions]
    for file in FILES:
        assert np.array_equal(subset.array(file), golden.array(file)[subset.rows])


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, "--per-tier or with --range"),
        ({"per_tier": [1, 1, 1, 1], "positions": (20, 30)}, "one of the two"),
        ({"per_tier": [1, 1, 1]}, "there are 4 tiers and 3 wanted sizes"),
        ({"per_tier": [0, 0, 0, 0]}, "at least one image"),
        ({"per_tier": [0, -1, 0, 2]}, "ask for 0 or more"),
        ({"positions": (9, 20)}, "range 9:20 does not fit; the recorded images are 10:719"),
        ({"positions": (700, 720)}, "range 700:720 does not fit"),
    ],
)
def test_choices_that_are_none(tiered, chosen, said):
    path, _, _ = tiered
    with pytest.raises(UsageError, match=said):
        record_subset(path, **chosen)
    assert not (path / "subset.json").exists()


def test_a_tier_that_is_too_small_is_named_with_want_and_have(tiered):
    path, _, tiers = tiered
    have = len(tiers.tiers[2].images)
    record_subset(path, per_tier=[0, 0, have, 0])
    with pytest.raises(UsageError, match=rf"tier 2 \(0\.5, 0\.75\] has {have} images and {have + 1} were asked for"):
        record_subset(path, per_tier=[0, 0, have + 1, 0])


def test_tiers_come_first(model_run):
    path = model_run()
    record_golden(path)
    with pytest.raises(StaleArtefact, match=f"no tiers yet; run `testbed tiers {path}` first"):
        record_subset(path, per_tier=[1, 1, 1, 1])
    record_subset(path, positions=(0, 3))


def test_a_subset_of_an_earlier_golden_is_refused(tiered):
    path, _, _ = tiered
    record_subset(path, positions=(20, 30))
    record_golden(path, images=(0, 50))
    with pytest.raises(StaleArtefact, match=f"made from another golden; run `testbed subset {path}` again"):
        recorded_subset(open_golden(path))


@pytest.mark.parametrize("file", ["subset.json", "subset/block.0.attn.output.npy"])
def test_an_edited_subset_is_refused_by_name(tiered, file):
    path, _, _ = tiered
    record_subset(path, positions=(20, 30))
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    subset = recorded_subset(open_golden(path))
    assert subset is not None
    with pytest.raises(StaleArtefact, match="was edited or truncated"):
        subset.rows if file == "subset.json" else subset.array(FILES[2])
