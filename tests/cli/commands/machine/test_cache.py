"""The command that shows and clears the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.core.folder.cache import GOLDENS, MODELS, Cached
from tests.support.commands import invoke


def run(*words: str) -> str:
    done = invoke("cache", *words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TESTBED_CACHE_LIMIT", "2.5")
    (tmp_path / "made").write_bytes(bytes(12_345))
    golden, model = Cached(GOLDENS, "a", ".npy"), Cached(MODELS, "b", ".safetensors")
    for one in (golden, model):
        one.keep(tmp_path / "made")
    data = tmp_path / "cache" / "data" / "mine"
    data.mkdir(parents=True)
    told = run()
    assert f"{tmp_path}/cache, at most 2.5 GiB" in told
    assert "goldens       1 files    12.1 KiB" in told
    found = json.loads(run("--json"))
    assert found["limit_bytes"] == 5 * 2**29
    assert found["kinds"][0] == {"kind": "goldens", "files": 1, "bytes": 12_345}
    assert "goldens       1 files" in run("clear", "--only", "goldens")
    assert golden.facts() is None
    assert model.facts() is not None
    run("clear")
    assert model.facts() is None
    assert data.is_dir()
