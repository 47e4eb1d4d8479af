"""What every test shares: one thread, a cache of its own, the same random examples each time."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.finished"]

# Before anything imports torch or NumPy: results and timings must not depend on how many cores the machine has.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests import it themselves, some before the testbed does

# A shell that runs the tests in the background has them ignore Ctrl-C, and with them every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Subprocesses started by tests import the same sources as the tests.
_ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))

_TESTS = Path(__file__).parent
_NOT_QUICK = set((_TESTS / "not_quick.txt").read_text().splitlines())  # files, and functions of files

settings.register_profile(
    "testbed",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("quick", settings.get_profile("testbed"), max_examples=15)
settings.load_profile("testbed")


def pytest_configure(config: pytest.Config) -> None:
    """Fewer random examples in the quick loop, where tests do not say how many."""
    if _is_quick(config):
        settings.load_profile("quick")


def _is_quick(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import files of which nothing is quick, where nothing else is asked for: it takes as long as the tests."""
    if not _is_quick(config):
        return None
    return collection_path.relative_to(_TESTS).as_posix() in _NOT_QUICK or None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick what is neither slow, nor for a GPU, nor named in not_quick.txt."""
    for item in items:
        file = item.path.relative_to(_TESTS).as_posix()
        names = {file, f"{file}::{getattr(item, 'originalname', item.name)}"}
        if not names & _NOT_QUICK and not any(map(item.get_closest_marker, ("slow", "gpu"))):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session", autouse=True)
def narrow_terminals() -> None:
    """Whatever a command prints in a test is checked at every width of a terminal."""
    from tests.support.narrow import check_all_commands

    check_all_commands()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this session's tests share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session", autouse=True)
def cache_dir(shared_folder: Path) -> Path:
    """The cache folder of the whole session: what one test prepares (a data set, a trained model), the next one finds. It
    is not named by TESTBED_CACHE: campaigns would take passed gates from each other, those with broken engines too."""
    folder = shared_folder / "cache" / "testbed"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(
        "MPLCONFIGDIR", str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matplotlib")
    )
    os.environ["XDG_CACHE_HOME"] = str(folder.parent)
    os.environ.pop("TESTBED_CACHE", None)
    return folder


@pytest.fixture(scope="session", autouse=True)
def remembered_exports(shared_folder: Path) -> Iterator[None]:
    """A model that one test exported is not exported again by another."""
    from tests.support import exports

    if "torch" not in sys.modules:  # then no test of this process exports anything
        yield
        return
    with exports.remembered_exports(shared_folder / "exports"):
        yield
