"""Moving over from the original workflow in the middle, and back."""

import logging

import numpy as np
import pytest
import torch

from testbed.analysis.outputs.confidence import TierEdges
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import sha256_file
from testbed.golden.originals import export_originals, import_originals
from testbed.golden.recorded import open_golden
from testbed.golden.recording import record_golden
from testbed.golden.subset import record_subset
from testbed.golden.tiers import record_tiers, recorded_edges
from testbed.models.originals import TierIndices, write_golden, write_tier_indices
from tests.support.bomb import Bomb

from .conftest import sharp_model

ATTENTION = "block.0.attn"


def test_there_and_back_is_the_same_golden(recorded, model_run, tmp_path):
    tiers = record_tiers(recorded, TierEdges.preset(5))
    files = export_originals(recorded, tmp_path / "files", "tiny")
    assert [f.name for f in files] == ["golden_tiny.pt", "tiny_attn_dataset.pt", "tiny_cnf_corr_out5.pt"]
    path = model_run("moved")
    golden = import_originals(path, files[0], attention_file=files[1], tiers_file=files[2])
    before = open_golden(recorded)
    assert golden.hashes == before.hashes
    assert golden.accuracy == before.accuracy
    inputs = golden.run.folder.manifest["stages"]["golden"]["inputs"]
    assert inputs["imported"] == {file.name: sha256_file(file) for file in files[:2]}
    assert recorded_edges(golden) == TierEdges.preset(5)
    assert record_tiers(path, TierEdges.preset(5)) == tiers


def test_the_files_are_what_the_original_workflow_reads(recorded, tmp_path):
    record_tiers(recorded, TierEdges.preset(4))
    files = export_originals(recorded, tmp_path, "tiny")
    golden = open_golden(recorded)
    logits, dataset, (correct, incorrect) = (torch.load(file, weights_only=True) for file in files)
    assert torch.equal(logits, torch.from_numpy(np.array(golden.logits)))
    assert dataset["inputs"].shape == dataset["outputs"].shape == (719, 17, 32)
    right = logits.argmax(1).numpy() == golden.labels
    assert sorted(i for tier in correct for i in tier) == np.flatnonzero(right).tolist()
    assert incorrect == np.flatnonzero(~right).tolist()


def test_without_tiers_none_are_written_and_a_subset_can_be_chosen(recorded, tmp_path):
    assert len(export_originals(recorded, tmp_path, "all")) == 2
    with pytest.raises(UsageError, match="has no subset"):
        export_originals(recorded, tmp_path, "part", subset_only=True)
    record_subset(recorded, positions=(5, 9))
    files = export_originals(recorded, tmp_path, "part", subset_only=True)
    golden = open_golden(recorded)
    inputs = torch.load(files[1], weights_only=True)["inputs"]
    assert np.array_equal(inputs.numpy(), golden.array(golden.file(ATTENTION, 0))[5:9])


def test_a_golden_of_part_of_the_images(recorded, model_run, tmp_path):
    record_golden(recorded, images=(30, 50))
    files = export_originals(recorded, tmp_path, "part")
    path = model_run("moved")
    with pytest.raises(UsageError, match=r"holds \(20, 10\), and .* make \(719, 10\); .* --images A:B"):
        import_originals(path, files[0])
    golden = import_originals(path, files[0], attention_file=files[1], images=(30, 50))
    assert golden.range == (30, 50)
    assert golden.hashes == open_golden(recorded).hashes


@pytest.mark.parametrize("spoil", ["model", "order", "nan"])
def test_files_of_another_model_or_order_are_refused(recorded, model_run, tmp_path, spoil):
    logits = np.array(open_golden(recorded).logits)
    model = sharp_model(1) if spoil == "model" else sharp_model()
    if spoil == "order":
        logits = np.roll(logits, 1, axis=0)
    if spoil == "nan":
        logits[0, 0] = np.nan
    write_golden(tmp_path / "golden_x.pt", logits)
    path = model_run("moved", model)
    with pytest.raises(TestbedError, match=r"golden_x\.pt is not of this model and these images in this order"):
        import_originals(path, tmp_path / "golden_x.pt")
    assert not (path / "golden").exists()


def test_an_attention_data_set_of_another_model_is_refused(recorded, model_run, tmp_path):
    other = model_run("other", sharp_model(1))
    record_golden(other)
    good, bad = export_originals(recorded, tmp_path, "good"), export_originals(other, tmp_path, "bad")
    with pytest.raises(TestbedError, match=r"bad_attn_dataset\.pt is not of this model"):
        import_originals(model_run("moved"), good[0], attention_file=bad[1])


def indices_of(recorded):
    golden = open_golden(recorded)
    rows = {name: row for row, name in enumerate(golden.ids)}
    content = record_tiers(recorded, TierEdges.preset(4))
    tiers = [[rows[name] for name in tier.images] for tier in content.tiers]
    return tiers, [rows[name] for name in content.incorrect_images]


def test_tiers_of_another_golden_are_refused(recorded, model_run, tmp_path):
    tiers, incorrect = indices_of(recorded)
    logits = export_originals(recorded, tmp_path, "x")[0]
    file = tmp_path / "moved_cnf_corr_out.pt"
    moved = tiers[0].pop(3)
    tiers[2].append(moved)
    write_tier_indices(file, TierIndices(tuple(map(tuple, tiers)), tuple(incorrect)))
    with pytest.raises(UsageError, match=rf"1 of 719 images belong elsewhere, .*position {moved}\)"):
        import_originals(model_run("a"), logits, tiers_file=file)
    tiers[2].remove(moved)
    write_tier_indices(file, TierIndices(tuple(map(tuple, tiers)), tuple(incorrect)))
    with pytest.raises(UsageError, match="1 of 719 images belong elsewhere"):  # in no list
        import_originals(model_run("b"), logits, tiers_file=file)
    tiers[2] += [moved, 719]
    write_tier_indices(file, TierIndices(tuple(map(tuple, tiers)), tuple(incorrect)))
    with pytest.raises(UsageError, match="names image 719, and there are 719"):
        import_originals(model_run("c"), logits, tiers_file=file)


def test_an_image_on_an_edge_may_be_in_either_tier(recorded, model_run, tmp_path, monkeypatch, caplog):
    """Another softmax rounds a margin to the other side; what this one says is kept, and said."""
    tiers, incorrect = indices_of(recorded)
    golden = open_golden(recorded)
    shares = torch.from_numpy(np.array(golden.logits)).double().softmax(1).topk(2).values
    margins = (shares[:, 0] - shares[:, 1]).numpy()
    nearest = min(tiers[0], key=lambda row: 0.25 - margins[row])
    monkeypatch.setattr("testbed.golden.originals.EDGE_TOLERANCE", 0.25 - margins[nearest] + 1e-9)
    tiers[0].remove(nearest)
    tiers[1].append(nearest)
    write_tier_indices(tmp_path / "t.pt", TierIndices(tuple(map(tuple, tiers)), tuple(incorrect)))
    logits = export_originals(recorded, tmp_path, "x")[0]
    path = model_run("moved")
    logging.getLogger("testbed").propagate = True
    with caplog.at_level(logging.WARNING):
        import_originals(path, logits, tiers_file=tmp_path / "t.pt")
    assert f"changed sides: {golden.ids[nearest]}" in caplog.text
    assert record_tiers(path, TierEdges.preset(4)) == record_tiers(recorded, TierEdges.preset(4))
    tiers[1].remove(nearest)
    wrong = TierIndices(tuple(map(tuple, tiers)), (*incorrect, nearest))
    write_tier_indices(tmp_path / "t.pt", wrong)
    with pytest.raises(UsageError, match="1 of 719 images belong elsewhere"):  # it is correct, on whichever side
        import_originals(model_run("again"), logits, tiers_file=tmp_path / "t.pt")


@pytest.mark.parametrize("which", range(3))
def test_files_that_would_run_code_do_not(recorded, model_run, tmp_path, which):
    record_tiers(recorded, TierEdges.preset(5))
    files = export_originals(recorded, tmp_path / "files", "tiny")
    trace = tmp_path / "it-ran"
    torch.save([torch.zeros(3), Bomb(trace)], files[which])
    with pytest.raises(TestbedError, match=r"would run code when unpickled") as caught:
        import_originals(model_run("moved"), files[0], attention_file=files[1], tiers_file=files[2])
    assert files[which].name in str(caught.value)
    assert not trace.exists()
