"""The cache of costly files: taken whole and as they were kept, or not at all; bounded; safe among processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.core.errors import UsageError
from testbed.core.folder import cache
from testbed.core.folder.cache import GOLDENS, KINDS, MODELS, Cached, clear, make_room, usage
from testbed.core.folder.files import sha256_bytes


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(key: str, content: bytes, tmp_path: Path, kind: str = GOLDENS, used: float | None = None) -> Cached:
    made = tmp_path / "made"
    made.write_bytes(content)
    one = Cached(kind, key, ".npy")
    one.keep(made, {"key": key})
    if used is not None:
        os.utime(one.path, (used, used))
    return one


@pytest.mark.parametrize("large", [0, 10**9], ids=["linked", "copied"])
def test_what_was_kept_is_taken_with_its_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(cache, "LINKED_BYTES", large)
    one = kept("a", b"content", tmp_path)
    assert one.taken(tmp_path / "deep" / "wanted") == {"key": "a"} == one.facts()
    assert (tmp_path / "deep" / "wanted").read_bytes() == b"content"
    assert one.digest() == sha256_bytes(b"content")
    assert (tmp_path / "deep" / "wanted").samefile(one.path) == (large == 0)
    clear()
    assert (tmp_path / "deep" / "wanted").read_bytes() == b"content"  # a run folder stands alone
    assert Cached(GOLDENS, "b", ".npy").taken(tmp_path / "other") is None


def test_a_damaged_file_is_not_taken_and_may_be_kept_again(tmp_path: Path) -> None:
    one = kept("a", b"content", tmp_path)
    one.path.write_bytes(b"contend")
    assert one.taken(tmp_path / "wanted") is None
    assert not (tmp_path / "wanted").exists()
    kept("a", b"content", tmp_path)
    assert one.taken(tmp_path / "wanted") is not None
    one.path.with_suffix(".json").write_text("[]")
    assert one.taken(tmp_path / "again") is None


def test_a_file_that_vanishes_while_it_is_taken_was_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = kept("a", b"content", tmp_path)
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # it was there a moment ago
    one.path.unlink()
    assert one.taken(tmp_path / "wanted") is None
    assert not (tmp_path / "wanted").exists()


def test_a_model_that_an_earlier_version_kept_is_taken(tmp_path: Path, folder: Path) -> None:
    (folder / MODELS).mkdir(parents=True)
    (folder / MODELS / "a.safetensors").write_bytes(b"weights")
    (folder / MODELS / "a.sha256").write_text(sha256_bytes(b"weights"))
    assert Cached(MODELS, "a", ".safetensors").taken(tmp_path / "wanted") == {}
    assert [(u.kind, u.files, u.bytes) for u in clear((MODELS,))] == [(MODELS, 1, 7)]
    assert list((folder / MODELS).iterdir()) == []


def test_the_limit_holds_and_goldens_unused_for_longest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT, str(1000 / 2**30))
    model = kept("m", bytes(400), tmp_path, kind=MODELS, used=1)
    old, young = kept("a", bytes(300), tmp_path, used=2), kept("b", bytes(200), tmp_path, used=3)
    assert {u.kind: u.bytes for u in usage()} == {GOLDENS: 500, "prepared": 0, "tensorrt": 0, MODELS: 400}
    assert old.taken(tmp_path / "wanted") is not None  # used last
    kept("c", bytes(300), tmp_path)
    assert [one.facts() is not None for one in (model, old, young)] == [True, True, False]
    assert sum(u.bytes for u in usage()) <= 1000
    assert kept("d", bytes(501), tmp_path).facts() is None  # would push out all others
    monkeypatch.setenv(cache.LIMIT, "0")
    make_room()
    assert [u.files for u in usage()] == [0] * len(KINDS)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(UsageError, match=f"TESTBED_CACHE_LIMIT={text}: give the cache's limit in GiB"):
        cache.limit_bytes()


def test_two_processes_keep_and_take_the_same_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from testbed.core.folder.cache import Cached, clear;"
        "here = Path(sys.argv[1]); here.mkdir(); (here / 'made').write_bytes(bytes(range(256)) * 999)\n"
        "for n in range(60):\n"
        "    one = Cached('goldens', str(n % 3), '.npy'); one.keep(here / 'made')\n"
        "    if n % 20 == 19: clear()\n"
        "    if one.taken(here / 'taken') is not None:\n"
        "        assert (here / 'taken').read_bytes() == (here / 'made').read_bytes()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)]) for name in ("a", "b")]
    assert [one.wait(60) for one in running] == [0, 0]
