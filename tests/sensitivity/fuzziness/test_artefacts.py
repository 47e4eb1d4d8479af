"""What is recorded while a model is trained, its pictures, and averages over seeds."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from testbed.core.errors import StaleArtefact, UsageError
from testbed.data import load
from testbed.models.config import uniform
from testbed.sensitivity.fuzziness.artefacts import RunFuzziness, fits_of
from testbed.sensitivity.fuzziness.average import average, write_average
from testbed.sensitivity.fuzziness.fits import both_fits
from testbed.sensitivity.fuzziness.layers import LayerFuzziness, layer_fuzziness
from testbed.sensitivity.fuzziness.log import EpochFuzziness, Recorder, due, read_log, write_log
from testbed.sensitivity.fuzziness.plots import layers_figure, limits_of, rendered, save_gif, save_png
from testbed.train import evaluate, recipe, train

DEPTH = 3
LAYERS = {"pixels": 4.0, "block.0": 9.0, "block.1": 3.0, "block.2": 1.0, "logits": 2.0}


@pytest.fixture(scope="module")
def digits():
    whole = load("digits")
    return replace(
        whole,
        train=whole.train.subset(slice(0, 120)),
        validation=whole.validation.subset(slice(0, 40)),
        test=whole.test.subset(slice(0, 100)),
    )


@pytest.fixture(scope="module")
def config():
    return uniform(DEPTH, 2, 8, image=8, patch=4, channels=1, width=8, classes=10, head_width=4, dropout=0.2)


def trained(path, digits, config, *, every, epochs=4, killed_at=None, monkeypatch=None, seed=0):
    """Trains with a recorder into folder ``path``; killed after an epoch is recorded, before its checkpoint is."""
    if killed_at:
        from testbed.train import checkpoint, loop

        def save(file, state, identity):
            if state.epoch == killed_at:
                raise KeyboardInterrupt
            checkpoint.save(file, state, identity)

        monkeypatch.setattr(loop, "save", save)
    recorder = Recorder(path / "fuzziness.csv", digits.test, 10, every=every, epochs=epochs)
    how = recipe("digits", epochs=epochs, batch=30, warmup_epochs=0, select="last")
    return train(
        config, digits, how, seed=seed, checkpoint=path / "training.checkpoint", callbacks=[recorder], progress=False
    )


def test_epochs_that_are_due():
    assert [epoch for epoch in range(1, 26) if due(epoch, 10, 25)] == [10, 20, 25]
    assert [epoch for epoch in range(1, 4) if due(epoch, 1, 3)] == [1, 2, 3]
    assert [epoch for epoch in range(1, 4) if due(epoch, 10, 3)] == [3]


def test_a_row_holds_the_curves_and_the_fuzziness_of_the_model_after_the_epoch(tmp_path, digits, config):
    done = trained(tmp_path, digits, config, every=2, epochs=3)
    rows = read_log(tmp_path / "fuzziness.csv")
    assert [row.epoch for row in rows] == [2, 3]
    last, record = rows[-1], done.curves[-1]
    assert (last.train_loss, last.train_accuracy) == (record.train_loss, record.train_accuracy)
    assert last.test_accuracy == pytest.approx(evaluate(done.model, digits.test).accuracy)
    assert last.layers == layer_fuzziness(done.model, digits.test)
    header = (tmp_path / "fuzziness.csv").read_text().splitlines()[0]
    assert header == "epoch,train_loss,train_accuracy,test_accuracy,pixels,block.0,block.1,block.2,logits"


def test_recording_does_not_change_the_training(tmp_path, digits, config):
    recorded = trained(tmp_path, digits, config, every=1, epochs=2)
    how = recipe("digits", epochs=2, batch=30, warmup_epochs=0, select="last")
    plain = train(config, digits, how, seed=0, progress=False)
    pairs = zip(recorded.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("killed_at", [1, 3])
def test_an_epoch_trained_again_after_a_kill_is_recorded_once(tmp_path, digits, config, monkeypatch, killed_at):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    trained(whole, digits, config, every=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        trained(torn, digits, config, every=1, killed_at=killed_at, monkeypatch=patch)
    assert [row.epoch for row in read_log(torn / "fuzziness.csv")] == list(range(1, killed_at + 1))
    trained(torn, digits, config, every=1)
    assert (torn / "fuzziness.csv").read_text() == (whole / "fuzziness.csv").read_text()
    assert [row.epoch for row in read_log(torn / "fuzziness.csv")] == [1, 2, 3, 4]


def test_a_training_from_the_start_replaces_the_log_of_another(tmp_path, digits, config):
    trained(tmp_path, digits, config, every=1, epochs=2)
    (tmp_path / "training.checkpoint").unlink()
    trained(tmp_path, digits, config, every=2, epochs=2)
    assert [row.epoch for row in read_log(tmp_path / "fuzziness.csv")] == [2]


def test_a_recorder_that_could_not_record_says_so_before_the_training(tmp_path, digits):
    with pytest.raises(UsageError, match="5 images for 10 classes"):
        Recorder(tmp_path / "log.csv", digits.test.subset(slice(0, 5)), 10, every=1, epochs=1)
    with pytest.raises(UsageError, match="not every 0"):
        Recorder(tmp_path / "log.csv", digits.test, 10, every=0, epochs=1)


def test_the_log_reads_back_exactly_and_a_damaged_one_is_refused(tmp_path):
    rows = [
        EpochFuzziness(1, 1 / 3, 0.1, 0.7, {"pixels": 2 / 7, "logits": float("inf")}),
        EpochFuzziness(2, 2e-9, 1.0, 1.0, {"pixels": 0.0, "logits": 1e300}),
    ]
    file = tmp_path / "log.csv"
    write_log(file, rows)
    assert read_log(file) == rows
    cut = file.read_text().rpartition(",")[0] + "\n"
    for damaged in (cut, cut.replace("epoch", "era"), "1,2\n3\n", file.read_text() + "3,?,1,1,1,1\n"):
        file.write_text(damaged)
        with pytest.raises(StaleArtefact, match="no log of fuzziness"):
            read_log(file)


def test_fits_are_of_the_blocks_alone():
    """A law in the blocks is found whatever pixels and logits are."""
    blocks = {f"block.{n}": 30 * 0.5 ** (n + 1) + 2 for n in range(6)}
    fits = fits_of({"pixels": 1e6} | blocks | {"logits": 1e-6}, 6)
    assert fits.exponential is not None
    assert (fits.exponential.a, np.exp(-fits.exponential.b), fits.exponential.c) == pytest.approx((30, 0.5, 2))
    assert fits.separation is not None
    assert fits.separation.r2 is not None
    assert fits.separation.r2 < 0.999
    del blocks["block.3"]
    assert fits_of(blocks, 6).why_not == "fits are of all blocks, and some were left out"


@pytest.mark.parametrize(
    ("values", "there", "why"),
    [
        ([4.0, 2.0], (False, False), "a fit takes 3 blocks, and there are 2"),
        ([4.0, np.inf, 1.0, 1.0], (False, False), "not finite"),
        ([4.0, 2.0, 1.0, 0.0], (True, False), "fuzziness is 0"),
        ([4.0, 4.0, 4.0, 4.0], (False, True), "no exponential fits best"),
        ([4.0, 2.0, 1.5], (True, True), ""),
        ([1.0, 3.0, 1.0], (False, True), "no exponential fits best"),
    ],
)
def test_a_law_that_cannot_be_fitted_is_left_out_and_the_reason_told(values, there, why):
    fits = both_fits(values)
    assert (fits.exponential is not None, fits.separation is not None) == there
    assert why in fits.why_not
    assert bool(fits.why_not) == bool(why)


def _coloured(picture, *rgb):
    return bool((np.abs(np.asarray(picture.convert("RGB")).astype(int) - rgb).max(axis=2) < 12).sum() > 40)


def test_the_picture_marks_both_ends_and_draws_every_value_there_is(tmp_path):
    fits = both_fits([9.0, 3.0, 1.0])
    save_png(tmp_path / "a.png", layers_figure(LAYERS, fits, "title", ["loss 1"]))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000
        assert _coloured(picture, 0xD6, 0x27, 0x28)  # the first layer
        assert _coloured(picture, 0x2C, 0xA0, 0x2C)  # the last
        assert _coloured(picture, 0x1F, 0x77, 0xB4)
    figure = layers_figure(LAYERS, fits, "title", ["loss 1"])
    linear, logarithmic, beside = figure.axes
    assert [len([line for line in axes.lines if line.get_linestyle() == "--"]) for axes in (linear, logarithmic)] == [
        1,
        1,
    ]
    assert np.asarray(linear.lines[0].get_ydata()).tolist() == list(LAYERS.values())
    large = [line for line in linear.lines if line.get_markersize() > 8]
    assert [np.asarray(line.get_xdata()).tolist() for line in large] == [[0], [4]]
    assert logarithmic.get_yscale() == "log"
    text = beside.texts[0].get_text()
    assert "loss 1" in text
    assert "exponential: 1.0000" in text
    assert "separation: 1.0000" in text
    dashed = next(line for line in linear.lines if line.get_linestyle() == "--")
    x, y = np.asarray(dashed.get_xdata()), np.asarray(dashed.get_ydata())
    assert (x[0], x[-1]) == (1, 3)  # over the blocks, which stand at 1 to 3
    assert (y[0], y[-1]) == pytest.approx((9, 1), abs=1e-3)


def test_what_is_zero_or_infinite_is_drawn_without_complaint(tmp_path):
    layers = LAYERS | {"block.0": float("inf"), "block.1": 0.0}
    save_png(tmp_path / "a.png", layers_figure(layers, both_fits([np.inf, 0, 1]), "title", []))
    nothing = dict.fromkeys(LAYERS, 0.0)
    save_png(tmp_path / "b.png", layers_figure(nothing, both_fits([0, 0, 0]), "title", []))
    assert limits_of([EpochFuzziness(1, 0, 0, 0, nothing)]) is None
    assert limits_of([EpochFuzziness(1, 0, 0, 0, layers)]) == (1.0, 4.0)


def test_the_animation_has_a_frame_per_epoch_on_one_scale(tmp_path):
    levels = [{name: scale * value for name, value in LAYERS.items()} for scale in (1, 10, 3)]
    limits = limits_of([EpochFuzziness(n, 0, 0, 0, one) for n, one in enumerate(levels)])
    assert limits == (1.0, 90.0)
    figures = [layers_figure(one, both_fits([1, 1, 1]), "t", [], limits=limits) for one in levels]
    assert len({figure.axes[1].get_ylim() for figure in figures}) == 1
    save_gif(tmp_path / "a.gif", [rendered(figure) for figure in figures])
    with Image.open(tmp_path / "a.gif") as animation:
        assert isinstance(animation, GifImageFile)
        assert animation.n_frames == 3
        frames = []
        for frame in range(3):
            animation.seek(frame)
            frames.append(np.asarray(animation.convert("RGB")))
    assert not np.array_equal(frames[0], frames[1])


def test_an_average_has_mean_and_sample_standard_deviation(tmp_path):
    factors = np.array([1.0, 2.0, 6.0])
    measured = [
        RunFuzziness(
            f"run-{n}",
            "digits",
            DEPTH,
            LayerFuzziness({name: f * value for name, value in LAYERS.items()}, 100, 10, f / 10, f),
        )
        for n, f in enumerate(factors)
    ]
    found = average(measured)
    for name, value in LAYERS.items():
        assert found.layers[name].value == pytest.approx(3 * value)
        assert found.layers[name].std == pytest.approx(value * np.sqrt(7))
    assert (found.accuracy.value, found.loss.std) == pytest.approx((0.3, np.sqrt(7)))
    assert found.fits.separation is not None
    assert found.fits.separation.rho == pytest.approx(1 / 3)
    files = write_average(tmp_path, found, [])
    assert [file.name for file in files] == ["average.csv", "average.png"]
    with open(tmp_path / "average.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == list(LAYERS)
    assert float(rows[1]["fuzziness_std"]) == pytest.approx(9 * np.sqrt(7))
