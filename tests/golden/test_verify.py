"""Which images an engine does not reproduce: found by position, counted by tier, measured as the formula says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.outputs.compare import Tolerance
from testbed.analysis.outputs.confidence import TierEdges
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.engines.runner import open_engine
from testbed.export.onnx import export_onnx
from testbed.golden.injections import INJECTED_IMAGES, INJECTIONS, injected
from testbed.golden.recorded import open_golden
from testbed.golden.recording import record_golden
from testbed.golden.subset import record_subset
from testbed.golden.tiers import record_tiers
from testbed.golden.verify import verify_golden
from testbed.models.runs import MODEL
from testbed.models.weights import save_model

from .conftest import sharp_model

USUAL = Tolerance(5e-6, 1e-5)


class Disturbed:
    """An engine that gives some images' outputs wrong. ``wrong``: position -> what is added to its last element."""

    def __init__(self, runner, wrong):
        self._runner, self._wrong, self._seen = runner, wrong, 0
        self.info = runner.info

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._runner.close()

    def run(self, feeds):
        (name, values), *_ = self._runner.run(feeds).items()
        values = np.array(values)
        for position, amount in self._wrong.items():
            if self._seen <= position < self._seen + len(values):
                values[position - self._seen].reshape(-1)[-1] += amount
        self._seen += len(values)
        return {name: values}


@pytest.mark.parametrize("engine", ["torch", "ort-cpu"])
@pytest.mark.parametrize("target", ["attention", "model"])
def test_engines_reproduce_the_golden_and_injected_values_are_found(recorded, engine, target):
    tolerance = USUAL if target == "attention" else Tolerance(1e-4, 1e-5)  # the sharp model's logits are large
    found = verify_golden(recorded, target, engine, tolerance)
    assert (found.images, found.faulty_images, found.expected) == (719, [], [])
    assert 0 <= found.max_abs_diff < 1e-4
    assert sum(tier.n for tier in found.tiers) == round(719 * open_golden(recorded).accuracy)
    injection = verify_golden(recorded, target, engine, tolerance, inject=True, batch=101)
    assert injection.faulty_images == injection.expected == [150, 200, 201, 300]
    assert injection.max_abs_diff == np.inf


def test_other_targets_need_their_module_recorded(recorded):
    with pytest.raises(UsageError, match=r"no module 'block\.1\.attn' .it has block\.0\.attn.; record it with"):
        verify_golden(recorded, "attention:1", "torch", USUAL)
    record_golden(recorded, images=(0, 9), modules=["attention:1", "block:2"])
    for target, file in (("attention:1", "attention.1.onnx"), ("block:2", "block.2.onnx")):
        assert verify_golden(recorded, target, "torch", USUAL).faulty_images == []
        assert (recorded / file).is_file()


def test_what_differs_is_found_counted_and_measured(recorded, monkeypatch):
    golden = open_golden(recorded)
    tiers = record_tiers(recorded, TierEdges((0.5, 1.0)))
    rows = {name: row for row, name in enumerate(golden.ids)}
    low, high = ([rows[name] for name in tier.images] for tier in tiers.tiers)
    wrong_image = int(np.flatnonzero(golden.logits.argmax(1) != golden.labels)[3])
    wrong = {low[1]: 1e-3, low[2]: 2e-3, high[0]: 1e-7, wrong_image: 5.0}
    monkeypatch.setattr(
        "testbed.golden.verify.open_engine", lambda name, request: Disturbed(open_engine(name, request), wrong)
    )
    found = verify_golden(recorded, "attention", "torch", Tolerance(5e-6, 1e-3), batch=50)
    assert found.faulty_images == sorted([low[1], low[2], wrong_image])
    assert found.max_abs_diff == pytest.approx(5.0)
    first, second = found.tiers
    assert (first.low, first.high, first.n, first.faulty) == (0.0, 0.5, len(low), 2)
    assert (second.low, second.high, second.n, second.faulty) == (0.5, 1.0, len(high), 0)
    slack = 1e-3 * abs(float(golden.array(golden.file("block.0.attn", 1))[low[2]].reshape(-1)[-1]))
    assert slack > 1e-5
    assert first.max_abs_diff == pytest.approx(2e-3, abs=1e-6)
    assert first.smallest_atol == pytest.approx(2e-3 - slack, abs=1e-6)
    assert first.smallest_atol is not None
    at_that = Tolerance(first.smallest_atol, 1e-3)
    assert verify_golden(recorded, "attention", "torch", at_that, batch=50).faulty_images == [wrong_image]
    below = Tolerance(float(np.nextafter(first.smallest_atol, 0)), 1e-3)
    assert verify_golden(recorded, "attention", "torch", below, batch=50).faulty_images == sorted([low[2], wrong_image])


def test_a_model_that_was_replaced_is_exported_anew(recorded):
    folder = RunFolder.existing(recorded)
    folder.redo("import", ["import"])
    folder.stage("import", {}, [MODEL], lambda: save_model(recorded / MODEL, sharp_model(1)))
    with pytest.raises(StaleArtefact, match="recorded of another model"):
        verify_golden(recorded, "attention", "torch", USUAL)
    record_golden(recorded)
    assert verify_golden(recorded, "attention", "torch", USUAL).faulty_images == []


def test_of_a_subset_positions_are_its_own(recorded, monkeypatch):
    tiers = record_tiers(recorded, TierEdges.preset(4))
    sizes = [len(tier.images) for tier in tiers.tiers]
    record_subset(recorded, per_tier=[1, 1, 1, sizes[3]])
    monkeypatch.setattr(
        "testbed.golden.verify.open_engine", lambda name, request: Disturbed(open_engine(name, request), {2: 1.0})
    )
    for target in ("attention", "model"):
        found = verify_golden(recorded, target, "torch", Tolerance(1e-3, 0))
        assert found.images == 3 + sizes[3]
        assert found.faulty_images == [2]
        assert [(tier.n, tier.faulty) for tier in found.tiers] == [(1, 0), (1, 0), (1, 1), (sizes[3], 0)]


def test_tiers_without_images_have_no_deviation(recorded):
    record_tiers(recorded, TierEdges.preset(4))
    record_subset(recorded, per_tier=[0, 2, 0, 0])
    found = verify_golden(recorded, "attention", "torch", USUAL)
    assert [tier.max_abs_diff is None for tier in found.tiers] == [True, False, True, True]


def test_too_few_images_for_the_fixed_list(recorded):
    record_subset(recorded, positions=(0, 300))
    with pytest.raises(UsageError, match="up to position 300, and there are 300"):
        verify_golden(recorded, "attention", "torch", USUAL, inject=True)
    record_subset(recorded, positions=(0, 301))
    assert verify_golden(recorded, "attention", "torch", USUAL, inject=True).faulty_images == INJECTED_IMAGES


def test_changed_files_and_unknown_engines_are_refused(recorded):
    with pytest.raises(UsageError, match=r"unknown engine 'ort'; did you mean 'ort-cpu'\? Known: ort-cpu"):
        verify_golden(recorded, "attention", "ort", USUAL)
    file = recorded / "golden/block.0.attn.output.npy"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(StaleArtefact, match=r"block\.0\.attn\.output\.npy was edited"):
        verify_golden(recorded, "attention", "torch", USUAL)


def test_a_campaign_is_verified_with_the_file_it_exported_and_only_read(campaign_run):
    with pytest.raises(UsageError, match="has no target 'attention'"):
        verify_golden(campaign_run, "attention", "torch", USUAL)
    golden = open_golden(campaign_run)
    import torch

    folder, example = golden.run.folder, torch.from_numpy(golden.split.batch([0, 1]))

    def export() -> None:
        export_onnx(golden.run.model, example, folder / "model.onnx", input_name="image")

    folder.stage("export.model", {}, ["model.onnx"], export)
    before = {path: path.stat().st_mtime_ns for path in campaign_run.rglob("*")}
    assert verify_golden(campaign_run, "model", "ort-cpu", Tolerance(1e-4, 1e-5)).faulty_images == []
    assert {path: path.stat().st_mtime_ns for path in campaign_run.rglob("*")} == before


@given(st.integers(1, 400), st.sampled_from([(40, 64), (17, 32), (10,), (2, 3)]))
def test_the_fixed_list_is_applied_the_same_in_any_batches(size, shape):
    golden = np.full((320, *shape), 0.5, np.float32)
    whole = injected(golden, 0)
    parts = [injected(golden[start : start + size], start) for start in range(0, len(golden), size)]
    assert np.array_equal(np.concatenate(parts), whole, equal_nan=True)
    changed = ~np.equal(whole, golden).reshape(len(golden), -1).all(axis=1)
    assert np.flatnonzero(changed).tolist() == INJECTED_IMAGES
    assert (golden == 0.5).all()


def test_the_fixed_list_is_the_published_one():
    whole = injected(np.zeros((301, 50, 64), np.float32), 0)
    places = np.argwhere(whole != 0)
    assert {tuple(p) for p in places.tolist()} == set(INJECTIONS)
    assert whole[150, 34, 13] == whole[150, 34, 54] == whole[300, 34, 13] == 12
    assert np.isposinf(whole[200, 5, 5])
    assert np.isnan(whole[201, 2, 23])
