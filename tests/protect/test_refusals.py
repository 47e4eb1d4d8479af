"""What cannot be protected, or not so, is one clear line through the command, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.models.presets import preset
from testbed.models.runs import DataSource, write_model_run
from testbed.models.vit import ViT
from tests.support.campaigns import tiny_values
from tests.support.commands import invoke, last_error_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: nothing is measured where all is refused."""
    path = tmp_path_factory.mktemp("refusals") / "plain"
    config = preset("digits", **tiny_values()["model"]["overrides"])
    write_model_run(path, ViT(config), stage="train", name="plain", made_from={"seed": 0}, data=DataSource("digits"))
    return path


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--with", "clip"], "clip"),
        (["--with", "range", "--where", "block.9.*"], "no site matches 'block.9.*'"),
        (["--with", "range", "--margin", "0.9"], "it is 1 or more, not 0.9"),
        (["--with", "range", "--precision", "fp3"], "fp3"),
        (["--with", "range", "--engine", "nowhere"], "nowhere"),
        (["--with", "range", "--data", "digits"], "leave --data out"),
    ],
)
def test_what_cannot_be_protected_is_one_line(folder: Path, tmp_path: Path, options: list[str], wanted: str) -> None:
    to = tmp_path / "protected"
    assert wanted in last_error_of(invoke("protect", folder, *options, "--to", to), 2)
    assert not to.exists()


def test_folders_are_checked_first(folder: Path, tmp_path: Path) -> None:
    assert "another folder" in last_error_of(invoke("protect", folder, "--with", "range", "--to", folder), 2)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    assert "--data" in last_error_of(invoke("protect", file, "--with", "range", "--to", tmp_path / "y"), 2)
