"""Commands that need a PyTorch model, on a campaign of a file: each says so, and what to do, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import invoke
from tests.support.foreign_campaigns import Finished

COMMANDS = [
    ["golden"],
    ["golden", "verify"],
    ["golden", "export-originals", "--to", "files"],
    ["tiers"],
    ["rank", "--by", "eap"],
    ["circuits"],
    ["attention"],
    ["classspace", "--to", "files"],
    ["fuzziness"],
    ["export-weights", "--to", "weights.pth"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_one_line_says_what_to_do(
    command: list[str], finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    result = invoke(*command, finished.folder)
    assert result.exit_code == 2, result.output
    assert f"{finished.folder} is a campaign on" in result.stderr
    assert "finish the campaign" not in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before
