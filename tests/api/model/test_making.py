"""Models from Python: trained, imported, studied, as the commands do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import testbed
from testbed.core.errors import UsageError
from testbed.models.importers import save_vit_pytorch
from testbed.models.presets import preset
from testbed.models.vit import ViT
from tests.support.commands import answer


def plain(result: Any) -> Any:
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_a_training_is_the_commands(tmp_path: Path) -> None:
    counted: list[testbed.Snapshot] = []
    trained = testbed.train_model(
        "digits", "digits", tmp_path / "ours", epochs=1, settings={"mlp": 8}, progress=counted.append
    )
    by_command = answer(
        "train", "digits", "--dataset", "digits", "--epochs", "1", "--set", "mlp=8", "--run", tmp_path / "c"
    )
    mine = plain(trained)
    assert {k: v for k, v in mine.items() if k not in ("run", "seconds")} == {
        k: v for k, v in by_command.items() if k not in ("run", "seconds")
    }
    assert trained.test_accuracy == by_command["test_accuracy"]
    assert trained.model.path == tmp_path / "ours"
    assert counted[-1].steps is not None
    assert counted[-1].steps.done == counted[-1].steps.total == 1
    assert "test accuracy" in trained._repr_html_()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    planned = testbed.train_model("digits", "digits", tmp_path / "run", dry_run=True)
    record = answer("train", "digits", "--dataset", "digits", "--run", tmp_path / "run", "--dry-run")
    assert plain(planned) == record
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="settings"):
        testbed.train_model("digits", "digits", tmp_path / "run", settings={"mlpp": 8})


def test_an_import_is_the_commands(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_vit_pytorch(tmp_path / "vit.pth", ViT(preset("digits", qkv_bias=False)))
    ours = testbed.import_model(tmp_path / "vit.pth", tmp_path / "ours", settings={"heads": 2}, data="digits")
    record = answer("import", tmp_path / "vit.pth", "--run", tmp_path / "c", "--set", "heads=2", "--data", "digits")
    assert {k: v for k, v in plain(ours).items() if k not in ("run", "model")} == {
        k: v for k, v in record.items() if k not in ("run", "model")
    }
    assert ours.model.path == tmp_path / "ours"
    assert {"key", "value", "from", "note"} == {*ours.facts}
    assert "heads" in ours._repr_html_()
    with pytest.raises(UsageError, match="--data NAME"):
        testbed.import_model(tmp_path / "vit.pth", tmp_path / "other", preprocess="digits")


def test_a_study_is_planned_as_the_command_plans_it(tmp_path: Path) -> None:
    planned = testbed.run_study("patch", tmp_path / "study", dataset="digits", seeds=2, dry_run=True)
    record = answer("study", "patch", "--dataset", "digits", "--seeds", "2", "--to", tmp_path / "study", "--dry-run")
    assert plain(planned) == record
    assert len(planned.variants) == len(record["variants"])
    assert "variant" in planned._repr_html_()
