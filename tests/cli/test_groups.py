"""Commands and options that nobody knows, and asking for help and versions."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.commands import invoke


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["campain", "run"], "No such command 'campain'; did you mean 'campaign'? See 'testbed -h'"),
        (["xyzzy"], "No such command 'xyzzy'; see 'testbed -h'"),
        (["campaign", "rn", "x.toml"], "No such command 'rn'; did you mean 'run'? See 'testbed campaign -h'"),
        (["data", "chek"], "No such command 'chek'; did you mean 'check'? See 'testbed data -h'"),
        (["golden", "verifi", "runs/x"], "No such command 'verifi'; did you mean 'verify'? See 'testbed golden -h'"),
        (["campaign", "run", "--rn", "x"], "No such option '--rn'; did you mean '--run'? See 'testbed campaign run -h'"),
        (["--versio"], "No such option '--versio'; did you mean '--version'? See 'testbed -h'"),
        (["help", "campaign", "rnu"], "No such command 'rnu'; did you mean 'run'? See 'testbed campaign -h'"),
        (["help", "train", "x"], "'testbed train' has no commands of its own; see 'testbed train -h'"),
    ],
)  # fmt: skip
def test_a_near_name_is_suggested(args: list[str], told: str) -> None:
    result = invoke(*args)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {told}\n")


def test_so_is_a_near_value_of_an_option() -> None:
    assert "did you mean 'eap'? See 'testbed rank -h'" in invoke("rank", "runs/x", "--by", "eapp").stderr


def test_a_folder_named_like_a_command_is_still_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verifi").mkdir()
    assert "No such command" not in invoke("golden", "verifi", "--logits-only").stderr


@pytest.mark.parametrize("path", [(), ("campaign",), ("campaign", "run"), ("golden", "verify"), ("help",)])
def test_help_in_front_is_help_behind(path: tuple[str, ...]) -> None:
    asked, usual = invoke("help", *path), invoke(*path, "-h")
    assert (asked.exit_code, asked.output) == (0, usual.output)


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_versions_of_a_bug_report(option: str) -> None:
    first, *lines = invoke(option).output.splitlines()
    assert first == f"testbed {version('testbed')}"
    told = dict(line.split(" ", 1) for line in lines)
    assert (told["torch"], told["onnx"]) == (version("torch"), version("onnx"))
    assert any(name.startswith("onnxruntime") for name in told)
    assert {"python", "system"} <= told.keys()


def test_a_shell_completes_commands_and_options() -> None:
    for words, wanted in (
        ("testbed camp", "campaign"),
        ("testbed campaign run --dry", "--dry-run"),
        ("testbed export runs/vit --engine openv", "openvino"),
    ):
        environment = {"_TESTBED_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", "from testbed.cli.main import main; main()"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [f"plain,{wanted}"]


def test_a_file_in_place_of_a_folder_says_which_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "vit.onnx").write_bytes(b"")
    for command in (["golden"], ["golden", "verify"], ["tiers"], ["bench"], ["circuits"]):
        result = invoke(*command, tmp_path / "vit.onnx")
        assert result.exit_code == 2
        told = f"{str(tmp_path / 'vit.onnx')!r} is an ONNX file, and a run folder is wanted: that of a campaign on it"
        assert told in result.stderr
        assert result.stderr.count("\n") == 1
