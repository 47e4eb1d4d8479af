"""Loggers: the table while a training runs, TensorBoard and Weights & Biases beside it, after kills too."""

import math
import sys
from itertools import pairwise

import pytest

from testbed.core.errors import StaleArtefact, UsageError
from testbed.models.runs import DataSource
from testbed.train import recipe
from testbed.train.curves import read_csv, write_csv
from testbed.train.loggers import check_loggers, scalars
from testbed.train.record import EpochRecord
from testbed.train.runs import TrainingPlan, train_run
from tests.support.commands import error_of, invoke

SMALL = {"heads": [2], "mlp": [16], "width": 16}


class Killed(Exception):
    pass


def plan(epochs=4):
    chosen = recipe("digits", epochs=epochs, warmup_epochs=0, select="best")
    return TrainingPlan.of("digits", DataSource("digits"), chosen, overrides=SMALL, train_images=100)


def killed_in(epoch):
    def kill(at, model, record):
        if at == epoch:
            raise Killed

    return kill


def events(folder):
    """name -> [(step, value), ...] of every event file, as TensorBoard itself reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def expected(table, name):
    return [(record.epoch, pytest.approx(scalars(record)[name], rel=1e-6)) for record in read_csv(table)]


def test_the_table_is_there_while_it_trains(tmp_path):
    seen = []
    train_run(plan(), tmp_path / "run", callbacks=[lambda *_: seen.append(read_csv(tmp_path / "run" / "curves.csv"))])
    assert [[record.epoch for record in rows] for rows in seen] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert all(later[: len(rows)] == rows for rows, later in pairwise(seen))
    assert seen[-1] == read_csv(tmp_path / "run" / "curves.csv")


def test_the_table_of_a_killed_training_goes_on(tmp_path):
    with pytest.raises(Killed):
        train_run(plan(), tmp_path / "run", callbacks=[killed_in(3)])
    begun = read_csv(tmp_path / "run" / "curves.csv")
    assert [record.epoch for record in begun] == [1, 2, 3]
    train_run(plan(), tmp_path / "run")
    whole = read_csv(tmp_path / "run" / "curves.csv")
    assert [record.epoch for record in whole] == [1, 2, 3, 4]
    assert whole[:2] == begun[:2]


def test_tensorboard_shows_every_epoch_once_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(Killed):
        train_run(plan(), tmp_path / "run", callbacks=[killed_in(3)], loggers=["tensorboard"])
    train_run(plan(), tmp_path / "run", loggers=["tensorboard"])
    logged = events(tmp_path / "run" / "tensorboard")
    assert set(logged) == set(scalars(read_csv(tmp_path / "run" / "curves.csv")[0]))
    for name in ("loss/train", "loss/validation", "accuracy/train", "accuracy/validation", "learning_rate"):
        assert logged[name] == expected(tmp_path / "run" / "curves.csv", name), name


@pytest.mark.parametrize("killed", [True, False])
def test_a_logger_that_comes_late_is_given_the_epochs_before(tmp_path, killed):
    pytest.importorskip("tensorboard")
    if killed:
        with pytest.raises(Killed):
            train_run(plan(), tmp_path / "run", callbacks=[killed_in(3)])
    else:
        train_run(plan(), tmp_path / "run")
    for _ in range(2):  # the second time it has them all
        train_run(plan(), tmp_path / "run", loggers=["tensorboard"])
        logged = events(tmp_path / "run" / "tensorboard")
        assert logged["loss/train"] == expected(tmp_path / "run" / "curves.csv", "loss/train")


def test_weights_and_biases_writes_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "no account")
    train_run(plan(2), tmp_path / "run", loggers=["wandb"])
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    content = runs[0].read_bytes()
    for record in read_csv(tmp_path / "run" / "curves.csv"):
        assert repr(record.train_loss).encode() in content
        assert repr(record.validation_loss).encode() in content
    assert b"accuracy/validation" in content


def test_an_unknown_mode_of_weights_and_biases_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UsageError, match="WANDB_MODE is 'sometimes'; set it to offline"):
        train_run(plan(1), tmp_path / "run", loggers=["wandb"])


def test_without_its_package_a_logger_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = ["digits", "--dataset", "digits", "--epochs", 1, "--run", tmp_path / "run", "--log", "wandb"]
    line = error_of(invoke("train", *arguments), 2)
    assert line == "error: logging to wandb needs its package: pip install 'testbed[wandb]'"
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="unknown logger 'mlflow'; known: tensorboard, wandb"):
        check_loggers(["mlflow"])
    line = error_of(invoke("train", "digits", "--dataset", "digits", "--run", tmp_path / "run", "--log", "tensor"), 2)
    assert "'tensor' is not one of 'tensorboard', 'wandb'; did you mean 'tensorboard'?" in line


def test_figures_that_are_not_known_are_not_logged():
    record = EpochRecord(1, 2.0, 0.5, math.nan, math.nan, 1e-3, 0.1)
    assert scalars(record) == {"loss/train": 2.0, "accuracy/train": 0.5, "learning_rate": 1e-3, "seconds": 0.1}


def test_a_table_of_something_else_is_refused(tmp_path):
    table = tmp_path / "curves.csv"
    write_csv(table, [EpochRecord(1, 2.0, 0.5, math.nan, math.nan, 1e-3, 0.1)])
    assert math.isnan(read_csv(table)[0].validation_loss)
    for text in ("a,b\n1,2\n", "epoch,train_loss\n1,2\n", table.read_text().replace("2.0", "two"), "epoch\n1,2,3\n"):
        table.write_text(text)
        with pytest.raises(StaleArtefact, match="is no table of a training's curves"):
            read_csv(table)
