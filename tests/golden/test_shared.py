"""Goldens that are recorded once and shared; modules that are recorded for a few images only."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.data import load
from testbed.golden import recording
from testbed.golden.arrays import read_array
from testbed.golden.recording import record_golden
from testbed.golden.reference import LOGITS, module_files, record_module, record_reference
from testbed.golden.shared import SharedGolden, array_name
from testbed.models.runs import open_model_run

ATTENTION = "block.0.attn"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each recording."""
    found: list[int] = []

    def noting(model, split, rows, *args, **options):
        found.append(len(rows))
        record_reference(model, split, rows, *args, **options)

    monkeypatch.setattr(recording, "record_reference", noting)
    return found


def test_a_second_folder_of_the_same_model_takes_the_first_ones_golden(model_run, forward_passes, caplog):
    first = record_golden(model_run("a"), images=100)
    with caplog.at_level(logging.INFO):
        second = record_golden(model_run("b"), images=100)
    assert forward_passes == [100]
    assert second.hashes == first.hashes
    assert second.accuracy == first.accuracy
    assert "golden: reused" in caplog.text
    for file in module_files(ATTENTION):
        assert np.array_equal(second.array(file), first.array(file))


@pytest.mark.parametrize("what", ["images", "batch", "model"])
def test_what_decides_a_golden_is_told_apart(model_run, forward_passes, what):
    record_golden(model_run("a"), images=100)
    path = model_run("b", *([] if what != "model" else [changed(model_run("c"))]))
    record_golden(path, images=101 if what == "images" else 100, batch=32 if what == "batch" else 64)
    assert len(forward_passes) == 2


def test_images_of_another_size_have_a_golden_of_their_own(tmp_path):
    """A file may leave the size open: the same model and images, fed larger, give other logits."""
    test = load("digits", seed=0).test
    (tmp_path / "small.npy").write_bytes(b"small")
    SharedGolden("abc", test, {}).keep({"logits": tmp_path / "small.npy"})
    assert SharedGolden("abc", test, {}).write_cached({"logits": tmp_path / "same"})
    assert not SharedGolden("abc", replace(test, image=16), {}).write_cached({"logits": tmp_path / "larger"})


def changed(path: Path) -> torch.nn.Module:
    model = open_model_run(path).model
    with torch.no_grad():
        model.head.bias[0] += 0.5
    return model


def test_a_damaged_one_is_recorded_again(model_run, forward_passes, tmp_path):
    first = record_golden(model_run("a"), images=100)
    for file in (tmp_path / "cache" / "goldens").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert record_golden(model_run("b"), images=100).hashes == first.hashes
    assert forward_passes == [100, 100]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_batches_at_a_time_changes_no_bit(model_run, tmp_path, workers):
    run, test = open_model_run(model_run("a")), load("digits", seed=0).test
    torch.set_num_threads(1)
    seen: list[int] = []
    record_reference(run.model, test, range(200), tmp_path / "one", modules=[ATTENTION], batch=32)
    record_reference(
        run.model,
        test,
        range(200),
        tmp_path / "many",
        modules=[ATTENTION],
        batch=32,
        workers=workers,
        advance=seen.append,
    )
    assert seen == [32] * 6 + [8]
    for file in (LOGITS, *module_files(ATTENTION)):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()


def test_a_module_of_some_images_has_the_bits_of_all(model_run, tmp_path):
    """In whatever order they are named; with an image of the last batch, which is smaller."""
    run, test = open_model_run(model_run("a")), load("digits", seed=0).test
    record_reference(run.model, test, range(len(test)), tmp_path, modules=[ATTENTION])
    positions, seen = np.array([700, 3, 718, 64, 5]), list[int]()
    files = tmp_path / "inputs.npy", tmp_path / "outputs.npy"
    record_module(run.model, test, positions, files, module=ATTENTION, advance=seen.append)
    for file, whole in zip(files, module_files(ATTENTION), strict=True):
        assert np.array_equal(read_array(file), read_array(tmp_path / whole)[positions])
    assert sum(seen) == 5
    assert len(seen) == 4


def test_names_of_arrays_and_rows_of_their_own(model_run, tmp_path):
    test = load("digits", seed=0).test
    shared = SharedGolden("abc", test, {"batch": 64})
    assert [array_name(file) for file in (LOGITS, *module_files(ATTENTION))] == [
        "logits",
        "block.0.attn.input",
        "block.0.attn.output",
    ]
    (tmp_path / "some.npy").write_bytes(b"some")
    shared.keep({"logits": tmp_path / "some.npy"}, rows=[3, 5])
    assert shared.write_cached({"logits": tmp_path / "taken"}, rows=[3, 5])
    assert not shared.write_cached({"logits": tmp_path / "other"})
    assert not shared.write_cached({"logits": tmp_path / "other", "more": tmp_path / "more"}, rows=[3, 5])
    assert not (tmp_path / "other").exists()
