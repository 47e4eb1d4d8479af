from __future__ import annotations

from pathlib import Path

from testbed.core.folder.runfolder import RunFolder
from tests.support.commands import invoke


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    result = invoke("report", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path} holds no run")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_model_is_no_campaign(tmp_path: Path) -> None:
    RunFolder.claimed(tmp_path, "model", "vit", {}, ["testbed"]).save()
    result = invoke("report", str(tmp_path))
    assert (result.exit_code, result.stderr) == (2, f"error: {tmp_path} holds no campaign but a model\n")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert invoke("report", str(file)).exit_code == 2
