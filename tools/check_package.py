"""Check the package as a user gets it: build the sdist and, from it, the wheel; install the wheel and work with it.

    python tools/check_package.py                 # a few minutes: installs torch and the rest into an empty environment

The wheel must hold every file of testbed/ and campaigns/ that git tracks, the sdist every tracked file but .ci/ and
.github/. Then the wheel is installed, with the extras that run on any machine, into an empty environment, and used from
an empty folder: nothing of the checkout is on its path. Exit status 1 where something is missing or a command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "openvino,cluster"
NOT_PACKED = (".ci/", ".github/")
MADE_BY_THE_BUILD = ("testbed/_native/", "PKG-INFO")


class Failed(Exception):
    """What is wrong with the package, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    try:
        with tempfile.TemporaryDirectory(prefix="testbed-package-") as folder:
            check(Path(folder))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("package: the wheel and the sdist are whole, and the wheel works in an empty environment")
    return 0


def check(work: Path) -> None:
    build = environment(work / "build")
    run([build, "-m", "pip", "install", "-q", "build"])
    run([build, "-m", "build", "--outdir", work / "dist", ROOT])
    (wheel,), (sdist,) = (list((work / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    tracked = run(["git", "ls-files"], cwd=ROOT).splitlines()
    check_wheel(wheel, tracked)
    check_sdist(sdist, tracked)
    python = environment(work / "user")
    run([python, "-m", "pip", "install", "-q", f"{wheel}[{EXTRAS}]"])
    (work / "elsewhere").mkdir()
    check_use(python, work / "elsewhere")


def check_wheel(wheel: Path, tracked: Iterable[str]) -> None:
    """Raises Failed naming the first file that is missing, or that nothing put there."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {file for file in tracked if file.startswith("testbed/")}
    wanted |= {f"testbed/{file}" for file in tracked if file.startswith("campaigns/")}
    compare("the wheel", packed, wanted)


def check_sdist(sdist: Path, tracked: Iterable[str]) -> None:
    """Raises Failed, as ``check_wheel``."""
    with tarfile.open(sdist) as archive:
        packed = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    compare("the sdist", packed, {file for file in tracked if not file.startswith(NOT_PACKED)})


def compare(what: str, packed: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - packed):
        raise Failed(f"{what} lacks {len(missing)} files, among them {missing[0]}; see sdist.exclude in pyproject.toml")
    if extra := sorted(file for file in packed - wanted if not file.startswith(MADE_BY_THE_BUILD)):
        raise Failed(f"{what} holds {len(extra)} files that git does not track, among them {extra[0]}")
    print(f"package: {what} holds all {len(wanted)} files")


def check_use(python: Path, folder: Path) -> None:
    """The main job, from an empty folder, its own cache empty."""
    testbed = python.with_name("testbed")
    where = run([python, "-c", "import testbed; print(testbed.__file__)"], cwd=folder).strip()
    if not Path(where).is_relative_to(python.parents[1]):
        raise Failed(f"the package that is used lies in {where}, not in the environment")
    doctor = json.loads(run([testbed, "doctor", "--json"], cwd=folder))
    works = {finding["name"]: finding["available"] for part in ("engines", "kernels") for finding in doctor[part]}
    if not (works["ort-cpu"] and works["openvino"]):
        raise Failed(f"doctor says what works: {works}")
    run([testbed, "campaign", "new", "digits"], cwd=folder)
    summary = json.loads(run([testbed, "campaign", "run", "digits.toml", "--json"], cwd=folder))
    if summary["zero_fault"]["mismatches"] or not summary["rows"]:
        raise Failed(f"the campaign of the digits: {summary['zero_fault']}, {summary['rows']} rows")
    if not (folder / "runs/digits/report.html").stat().st_size:
        raise Failed("the campaign of the digits has an empty report.html")
    small = ["--set", "engine.backend=openvino", "--set", "tiers.images=[1,1,1,1]", "--run", "runs/openvino"]
    run([testbed, "campaign", "run", "digits.toml", *small], cwd=folder)
    run([testbed, "fault", "replay", "runs/digits", "4711"], cwd=folder)
    code = "import testbed\nwith testbed.open_run('runs/digits') as run: print(len(run.results))"
    if int(run([python, "-c", code], cwd=folder)) != summary["rows"]:
        raise Failed("open_run finds other rows than the campaign told of")
    print(f"package: {summary['faults']:,} faults, {summary['rows']:,} rows from another folder; torch {torch(python)}")


def torch(python: Path) -> str:
    return run([python, "-c", "import torch; print(torch.__version__)"]).strip()


def environment(folder: Path) -> Path:
    """The Python of a new, empty virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """The command's standard output. Raises Failed with what it printed last."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "TESTBED_"))
    }
    if cwd is not None and cwd != ROOT:
        clean["TESTBED_CACHE"] = str(cwd / "cache")
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise Failed(f"'{' '.join(map(str, command))}' ended with {done.returncode}: {' | '.join(said)}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
