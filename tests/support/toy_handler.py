"""A handler that really crashes, hangs and runs out of memory, on faults that are told to. Run in processes of its own.

What a fault does is named in a folder that all processes see: file ``FAULT`` holds "what when": what is one of `DEEDS`;
when is "always", "company" (only among others) or a number (only so often, over all processes).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import to_stream
from testbed.core.errors import EngineError, TestbedError


class ToyError(TestbedError):
    exit_code = 3


def hang() -> None:
    ctypes.CDLL(None).pause()


def hang_with_the_lock() -> None:
    """No thread of this interpreter can do anything while this lasts."""
    ctypes.PyDLL(None).pause()


def kill_the_turned() -> None:
    """Only on a machine that has come to give other bits (see `Toy.golden`)."""
    if Path(os.environ.get("TOY_GOLDEN", "nowhere")).exists():
        os.kill(os.getpid(), signal.SIGKILL)


def overflow() -> None:
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n")
    sys.stderr.flush()
    os.abort()


def engine_failure() -> None:
    raise EngineError("the engine says no")


def engine_memory() -> None:
    raise EngineError("the engine failed to allocate memory for requested buffer of size 7")


def memory_error() -> None:
    raise MemoryError


def toy_error() -> None:
    raise ToyError("not on this machine; buy another")


def bug() -> None:
    raise KeyError("a bug")


DEEDS: dict[str, Callable[[], Any]] = {
    "abort": os.abort,
    "segv": lambda: ctypes.string_at(0),
    "abort aloud": lambda: (sys.stdout.flush(), os.abort()),
    "exit": lambda: os._exit(7),
    "hang": hang,
    "lock": hang_with_the_lock,
    "kill-the-turned": kill_the_turned,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "overflow": overflow,
    "memory": memory_error,
    "engine": engine_failure,
    "engine-memory": engine_memory,
    "toy": toy_error,
    "bug": bug,
    "slow": lambda: time.sleep(0.1),
}


@dataclass(frozen=True)
class Ask:
    """Calls a method of a `Toy` in its process."""

    name: str
    arguments: tuple[Any, ...] = ()

    def __call__(self, handler: Toy) -> Any:
        return getattr(handler, self.name)(*self.arguments)


class Toy:
    """Rows of fault f: value f squared. Faults are numbered over the whole plan."""

    def __init__(self, folder: str, golden: str = "toy", opening: str = "") -> None:
        self.folder, self._golden = Path(folder), golden
        self._log("opened")
        if opening:
            self._do(opening)
        self._seconds = 0.0

    def golden(self) -> dict[str, str]:
        """TOY_GOLDEN: a file with the bits of a machine with another instruction set, once it is there."""
        other = Path(os.environ.get("TOY_GOLDEN", "nowhere"))
        return {"model.activation": other.read_text() if other.exists() else self._golden}

    def golden_seconds(self, unit: Unit, faults: int) -> float:
        return 0.001 * faults

    def run(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> bytes:
        return self.evaluate(unit, faults, retried)()

    def evaluate(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> Callable[[], bytes]:
        chosen = range(len(unit)) if faults is None else faults
        self._log(f"run {unit.number} {unit.start + chosen[0]} {len(chosen)}")
        start = time.perf_counter()
        for fault in chosen:
            self._inject(unit.start + fault, alone=len(chosen) == 1)
        self._seconds += time.perf_counter() - start
        return lambda: to_stream(rows([unit.start + fault for fault in chosen], retried=retried))

    def blame(self, unit: Unit, faults: Sequence[int], due: str) -> bytes:
        return to_stream(rows([unit.start + fault for fault in faults], due=due))

    def engine_seconds(self) -> float:
        return self._seconds

    def close(self) -> None:
        self._log("closed")

    # for the tests of isolation

    def pid(self) -> int:
        return os.getpid()

    def modules(self) -> list[str]:
        return sorted(sys.modules)

    def do(self, deed: str) -> str:
        DEEDS[deed]()
        return deed

    def echo(self, value: Any) -> Any:
        return value

    def say(self, text: str, times: int = 1) -> None:
        for _ in range(times):
            sys.stdout.write(text)
            sys.stderr.write(text)

    def _inject(self, fault: int, alone: bool) -> None:
        order = self.folder / str(fault)
        if order.exists():
            self._do(order.read_text(), alone, fault)

    def _do(self, order: str, alone: bool = True, name: object = "opening") -> None:
        deed, when = order.split()
        if when == "company":
            if not alone:
                DEEDS[deed]()
        elif when == "always" or self._count(name) <= int(when):
            DEEDS[deed]()

    def _count(self, name: object) -> int:
        """How often this was called in all processes: a byte each in a file."""
        with open(self.folder / f"count-{name}", "ab") as file:
            file.write(b".")
            file.flush()
            return file.tell()

    def _log(self, line: str) -> None:
        with open(self.folder / "log", "a") as file:
            file.write(f"{os.getpid()} {line}\n")


def rows(faults: Iterable[int], retried: bool = False, due: str | None = None) -> pa.Table:
    numbers = list(faults)
    n = len(numbers)
    columns = {
        "fault_id": pa.array(numbers, pa.int64()),
        "value": pa.array([float("nan") if due else float(f * f) for f in numbers], pa.float64()),
        "infrastructure_failure": pa.array([retried] * n, pa.bool_()),
        "outcome": text(["due" if due else ("sdc1" if f % 4 == 0 else "masked") for f in numbers]),
        "due": text([due] * n),
        "target": text(["model"] * n),
        "where": text(["activation"] * n),
        "block": pa.array([f % 2 for f in numbers], pa.int16()),
    }
    return pa.table(columns)


def text(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def open_toy(folder: str, golden: str = "toy", opening: str = "") -> Toy:
    return Toy(folder, golden, opening)
