"""A process of one's own: whatever happens in it, this one lives on and knows what it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from testbed.core.errors import EngineError, TestbedError
from testbed.core.process.isolate import Crashed, Hung, Isolated, Lost, OutOfMemory, Stopped, WorkerBug, WorkerFailed
from tests.support.toy_handler import Ask, ToyError, open_toy


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Callable[..., Isolated]]:
    hired = []

    def one(opened: bool = True, idle_s: float | None = None) -> Isolated:
        hired.append(Isolated(open_toy, (str(tmp_path),), idle_s=idle_s))
        if opened:
            hired[-1].open(60)
        return hired[-1]

    yield one
    for worker in hired:
        worker.close()
        assert not worker.alive


def gone(pid: int, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # nobody may be there to collect it
                time.sleep(0.02)
                continue
        return True
    return False


def test_it_answers_and_inherits_nothing(hire: Callable[..., Isolated]) -> None:
    worker = hire()
    assert worker.call(Ask("echo", ({"a": b"\0" * 5_000_000},)), 60) == {"a": b"\0" * 5_000_000}
    assert worker.call(Ask("pid"), 60) == worker.pid != os.getpid()
    modules = worker.call(Ask("modules"), 60)
    assert not {"pytest", "torch", "onnxruntime", "testbed.core.process.isolate"} & set(modules)


@pytest.mark.parametrize(
    ("deed", "kind", "message"),
    [
        ("abort", Crashed, r"^ended by SIGABRT in do$"),
        ("segv", Crashed, r"^ended by SIGSEGV in do$"),
        ("exit", Crashed, r"^ended with exit code 7 in do$"),
        ("kill", Lost, r"^ended by SIGKILL in do$"),
        ("overflow", OutOfMemory, r"^ended by SIGABRT in do: what\(\):  std::bad_alloc$"),
    ],
)
def test_how_it_died_is_told(hire: Callable[..., Isolated], deed: str, kind: type[WorkerFailed], message: str) -> None:
    worker = hire()
    with pytest.raises(kind, match=message) as caught:
        worker.call(Ask("do", (deed,)), 60)
    assert type(caught.value) is kind
    assert not worker.alive
    with pytest.raises(WorkerFailed):  # and it stays dead
        worker.call(Ask("echo", (1,)), 60)


def test_what_it_raises_is_raised_here_and_it_goes_on(hire: Callable[..., Isolated]) -> None:
    worker = hire()
    with pytest.raises(EngineError, match=r"^the engine says no$"):
        worker.call(Ask("do", ("engine",)), 60)
    with pytest.raises(ToyError, match=r"^not on this machine; buy another$") as caught:
        worker.call(Ask("do", ("toy",)), 60)
    assert isinstance(caught.value, TestbedError)
    assert caught.value.exit_code == 3
    with pytest.raises(OutOfMemory, match="out of memory in do"):
        worker.call(Ask("do", ("memory",)), 60)
    with pytest.raises(OutOfMemory, match="failed to allocate memory"):
        worker.call(Ask("do", ("engine-memory",)), 60)
    with pytest.raises(WorkerBug, match=r'(?s)in do\nTraceback.*raise KeyError\("a bug"\)'):
        worker.call(Ask("do", ("bug",)), 60)
    assert worker.call(Ask("echo", (5,)), 60) == 5


@pytest.mark.parametrize("deed", ["hang", "lock"])
def test_one_that_hangs_is_killed(hire: Callable[..., Isolated], deed: str) -> None:
    worker = hire()
    with pytest.raises(Hung, match=r"^no answer after 0\.3 s in do$"):
        worker.call(Ask("do", (deed,)), 0.3)
    assert not worker.alive


def test_one_that_talks_a_lot_is_heard_out_and_only_its_last_words_are_kept(hire: Callable[..., Isolated]) -> None:
    worker = hire()
    worker.call(
        Ask(
            "say",
            (
                "MemoryError 0123456789\n",
                20_000,
            ),
        ),
        60,
    )  # more than any pipe holds
    worker.call(Ask("say", ("these words\n",)), 60)
    with pytest.raises(Crashed, match=r"^ended by SIGABRT in do$"):  # what it said before has nothing to do with it
        worker.call(Ask("do", ("abort",)), 60)


def test_what_it_said_before_is_forgotten_even_if_it_is_read_late(
    hire: Callable[..., Isolated], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = hire()
    read = os.read

    def late(descriptor: int, length: int) -> bytes:
        time.sleep(0.1)
        return read(descriptor, length)

    monkeypatch.setattr("testbed.core.process.isolate.os.read", late)
    worker.call(
        Ask(
            "say",
            (
                "MemoryError\n",
                2_000,
            ),
        ),
        60,
    )
    with pytest.raises(Crashed, match=r"^ended by SIGABRT in do$"):
        worker.call(Ask("do", ("abort",)), 60)


def test_what_it_said_belongs_to_the_call_in_which_it_said_it(hire: Callable[..., Isolated]) -> None:
    """Not to the one in which a buffer happens to be emptied."""
    worker = hire()
    worker.call(Ask("say", ("MemoryError\n",)), 60)
    with pytest.raises(Crashed, match=r"^ended by SIGABRT in do$"):
        worker.call(Ask("do", ("abort aloud",)), 60)


@pytest.mark.parametrize("begun", [False, True])
def test_opening_fails_as_calls_do(tmp_path: Path, begun: bool) -> None:
    for opening, kind, message in [
        ("engine always", EngineError, "says no"),
        ("abort always", Crashed, "ended by SIGABRT while it was opened"),
        ("hang always", Hung, r"no answer after 1\.5 s while it was opened"),
    ]:
        worker = Isolated(open_toy, (str(tmp_path), "toy", opening))
        if begun:
            worker.begin()
        with pytest.raises(kind, match=message):
            worker.open(1.5 if kind is Hung else 60)
        worker.close()


def test_a_kill_from_another_thread_is_no_crash(hire: Callable[..., Isolated]) -> None:
    worker = hire()
    threading.Timer(0.2, worker.kill).start()
    with pytest.raises(Stopped):
        worker.call(Ask("do", ("hang",)), 60)


def test_an_idle_one_ends_by_itself(hire: Callable[..., Isolated]) -> None:
    worker = hire(idle_s=0.2)
    assert worker.call(Ask("echo", (5,)), 60) == 5
    end = time.monotonic() + 20
    while worker.alive and time.monotonic() < end:
        time.sleep(0.02)
    with pytest.raises(Lost):
        worker.call(Ask("echo", (5,)), 60)


@pytest.mark.parametrize("deed", ["slow", "hang", "lock"])
def test_it_does_not_outlive_its_parent(tmp_path: Path, deed: str) -> None:
    """However deep it is in native code when the parent is killed."""
    program = f"""
import threading
from tests.support.toy_handler import Ask, open_toy
from testbed.core.process.isolate import Isolated
worker = Isolated(open_toy, ({str(tmp_path)!r},))
worker.open(60)
threading.Timer(0.3, lambda: print(worker.pid, flush=True)).start()
while True:
    worker.call(Ask("do", ({deed!r},)), 1000)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(pid)
