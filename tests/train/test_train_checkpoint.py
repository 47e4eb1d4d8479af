import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.train import train
from tests.support.bomb import Bomb


class Interrupted(Exception):
    pass


def interrupt_after(epochs):
    def callback(epoch, model, record):
        if epoch == epochs:
            raise Interrupted

    return callback


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "run" / "training.checkpoint"


@pytest.fixture
def begun(tiny, digits, quick, checkpoint):
    """A training of 4 epochs that stopped during the third."""
    with pytest.raises(Interrupted):
        train(tiny, digits, quick, seed=0, checkpoint=checkpoint, callbacks=[interrupt_after(3)])
    return checkpoint


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("select", ["best", "last"])
def test_interrupted_anywhere_it_goes_on_to_the_same_bits(tiny, digits, quick, same, checkpoint, optimiser, select):
    chosen = quick.with_(optimiser=optimiser, select=select)
    whole = train(tiny, digits, chosen, seed=0)
    for epoch in (1, 2, 4):
        with pytest.raises(Interrupted):
            train(tiny, digits, chosen, seed=0, checkpoint=checkpoint, callbacks=[interrupt_after(epoch)])
        assert checkpoint.exists() == (epoch > 1)
    assert same(train(tiny, digits, chosen, seed=0, checkpoint=checkpoint), whole)


def test_the_best_epoch_before_the_interruption_is_kept(tiny, digits, quick, same, checkpoint):
    unstable = quick.with_(epochs=8, learning_rate=0.2, schedule="constant", clip_norm=0, optimiser="sgd")
    whole = train(tiny, digits, unstable, seed=1)
    assert 1 <= whole.best_epoch < 7
    with pytest.raises(Interrupted):
        train(tiny, digits, unstable, seed=1, checkpoint=checkpoint, callbacks=[interrupt_after(8)])
    assert same(train(tiny, digits, unstable, seed=1, checkpoint=checkpoint), whole)


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from testbed.data import load
from testbed.models.config import ViTConfig
from testbed.train import Recipe, train

def kill(epoch, model, record):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

whole = load("digits", seed=0)
digits = replace(whole, train=whole.train.subset(slice(0, 200)), validation=whole.validation.subset(slice(0, 80)))
config, recipe, checkpoint = sys.argv[1:]
train(ViTConfig.from_json(eval(config)), digits, Recipe.from_json(eval(recipe)), seed=0,
      checkpoint=Path(checkpoint), callbacks=[kill])
"""


def test_killed_in_another_process_it_goes_on_to_the_same_bits(tiny, digits, quick, same, checkpoint):
    arguments = [repr(tiny.to_json()), repr(quick.to_json()), str(checkpoint)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    reported = []
    continued = train(
        tiny, digits, quick, seed=0, checkpoint=checkpoint, callbacks=[lambda epoch, *_: reported.append(epoch)]
    )
    assert reported == [3, 4]
    assert same(continued, train(tiny, digits, quick, seed=0))


def test_a_finished_training_is_not_repeated(tiny, digits, quick, same, checkpoint):
    whole = train(tiny, digits, quick, seed=0, checkpoint=checkpoint)
    again = train(tiny, digits, quick, seed=0, checkpoint=checkpoint, callbacks=[interrupt_after(1)])
    assert same(again, whole)
    assert again.curves == whole.curves, "the times too are those of the training"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", lambda config, data, recipe: (config, data, recipe, 1)),
        ("recipe.learning_rate", lambda config, data, recipe: (config, data, recipe.with_(learning_rate=0.1), 0)),
        ("recipe.epochs", lambda config, data, recipe: (config, data, recipe.with_(epochs=9), 0)),
        ("model.mlp", lambda config, data, recipe: (config.with_(mlp=(24,)), data, recipe, 0)),
        (
            "dataset.content.train",
            lambda config, data, recipe: (config, replace(data, train=data.test.subset(slice(0, 200))), recipe, 0),
        ),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(tiny, digits, quick, begun, name, change):
    config, data, recipe, seed = change(tiny, digits, quick)
    with pytest.raises(UsageError, match=f"is of another training: {name} is .* there, .* is asked for"):
        train(config, data, recipe, seed=seed, checkpoint=begun)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_one_clear_line(tiny, digits, quick, begun, share):
    content = begun.read_bytes()
    begun.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StaleArtefact, match=r"training\.checkpoint is truncated or not one of ours; delete it") as told:
        train(tiny, digits, quick, seed=0, checkpoint=begun)
    assert "\n" not in str(told.value)


def test_another_kind_of_file_is_refused(tiny, digits, quick, begun):
    contents: list[object] = [{}, {"format": "of the future"}, [1, 2], torch.zeros(3), {"model_state_dict": {}}]
    for content in contents:
        torch.save(content, begun)
        with pytest.raises(StaleArtefact, match="not one of ours"):
            train(tiny, digits, quick, seed=0, checkpoint=begun)


def test_a_checkpoint_that_would_run_code_does_not(tiny, digits, quick, begun, tmp_path):
    trapped = tmp_path / "trapped"
    begun.write_bytes(pickle.dumps(Bomb(trapped)))
    with pytest.raises(StaleArtefact, match="not one of ours"):
        train(tiny, digits, quick, seed=0, checkpoint=begun)
    torch.save({"format": Bomb(trapped)}, begun)
    with pytest.raises(StaleArtefact, match="not one of ours"):
        train(tiny, digits, quick, seed=0, checkpoint=begun)
    assert not trapped.exists()


def test_a_place_that_cannot_be_written_is_one_clear_line(tiny, digits, quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TestbedError, match="cannot write"):
        train(tiny, digits, quick, seed=0, checkpoint=tmp_path / "file" / "training.checkpoint")


def test_nothing_unfinished_is_left(begun):
    assert [path.name for path in begun.parent.iterdir()] == [begun.name]
