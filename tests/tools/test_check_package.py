"""tools/check_package.py: a package that lacks a file is found, whichever file it is."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import check_package
import pytest
from check_package import Failed, check_sdist, check_wheel

TRACKED = [
    ".ci/run",
    "README.md",
    "campaigns/digits.toml",
    "golden/digits/a.json",
    "testbed/core/a.py",
    "testbed/golden/b.py",
]
WHEEL = ["testbed/campaigns/digits.toml", "testbed/core/a.py", "testbed/golden/b.py", "testbed/_native/testbed_cpu.so"]


def wheel(folder: Path, names: list[str]) -> Path:
    path = folder / "testbed-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*names, "testbed-1.dist-info/METADATA"]:
            archive.writestr(name, "content")
    return path


def sdist(folder: Path, names: list[str]) -> Path:
    path = folder / "testbed-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in [*names, "PKG-INFO"]:
            archive.addfile(tarfile.TarInfo(f"testbed-1/{name}"), io.BytesIO())
    return path


def test_a_whole_package_is_right(tmp_path: Path) -> None:
    check_wheel(wheel(tmp_path, WHEEL), TRACKED)
    check_sdist(sdist(tmp_path, TRACKED[1:]), TRACKED)


@pytest.mark.parametrize("missing", WHEEL[:3])
def test_a_wheel_without_a_file_of_the_tree_is_refused_by_its_name(tmp_path: Path, missing: str) -> None:
    with pytest.raises(Failed, match=f"lacks 1 files, among them {missing}"):
        check_wheel(wheel(tmp_path, [name for name in WHEEL if name != missing]), TRACKED)


@pytest.mark.parametrize("missing", TRACKED[1:])
def test_a_source_package_without_a_file_is_refused_by_its_name(tmp_path: Path, missing: str) -> None:
    with pytest.raises(Failed, match=f"lacks 1 files, among them {missing}"):
        check_sdist(sdist(tmp_path, [name for name in TRACKED[1:] if name != missing]), TRACKED)


def test_what_git_does_not_track_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"holds 1 files that git does not track, among them testbed/secret\.txt"):
        check_wheel(wheel(tmp_path, [*WHEEL, "testbed/secret.txt"]), TRACKED)


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(Failed, match=r"ended with 3: words"):
        check_package.run(["sh", "-c", "echo words >&2; exit 3"])
