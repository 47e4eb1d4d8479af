"""Work that is handed out: what a unit is, what a worker can do, and what becomes of a unit whose worker dies.

A campaign's faults are run in units by handlers, each in a process of its own, on one machine (`testbed.campaign.work.pool`)
or on many (`testbed.campaign.work.dask.pool`). The process that owns the run folder hands units out, gets their rows back as
Arrow IPC streams, and is the only one that writes them. Imports nothing heavy: worker processes start with this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from testbed.campaign.plan.unit import Unit
from testbed.core.errors import TestbedError

Due = Literal["crash", "hang"]

MakeStream = Callable[[], bytes]
"""Makes the rows of faults that were run, as one Arrow IPC stream, without the engine: in any thread."""


class Handler(Protocol):
    """Runs units, in a worker process. What it raises means:

    EngineError: the engine failed on these faults (the unit is bisected on fresh workers, see `Limits`);
    MemoryError: too little memory (an infrastructure failure, retried); any other TestbedError ends the campaign with
    its message; any other exception is a bug and keeps its traceback.
    """

    def golden(self) -> dict[str, str]:
        """Hash of each target place's golden outputs, computed by this very process: compared with the campaign's."""
        ...

    def golden_seconds(self, unit: Unit, faults: int) -> float:
        """What fault-free runs of the same amount of work took when the worker was opened: its time-out follows.

        Loads whatever a run of the unit needs (the plan, golden words), so that loading is not part of the timed run.
        """
        ...

    def run(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> bytes:
        """Rows of all faults of the unit, or of those at these offsets within it (ascending), as one Arrow IPC stream.

        In plan order. ``retried``: the fault failed when it was alone, and is being run again; its rows carry
        ``infrastructure_failure``. Nobody else's do: company of a fault that failed is innocent.
        """
        ...

    def evaluate(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> MakeStream:
        """Runs faults as `run` does, and leaves the making of their rows to whoever calls what is given back.

        Only called where the handler shares its user's process.
        """
        ...

    def blame(self, unit: Unit, faults: Sequence[int], due: Due) -> bytes:
        """Rows that say DUE, made without running the engine."""
        ...

    def engine_seconds(self) -> float:
        """Time spent inside the engine since the worker was opened; what a run adds to it is told of the campaign."""
        ...

    def close(self) -> None:
        """Lets its engines go. Only called where the handler shares its user's process; others just end."""
        ...


@dataclass(frozen=True)
class Opener:
    """How a worker is opened: ``factory(*arguments)`` gives its `Handler`, in a process that has only just started.

    Both travel by pickle, the factory by its name. ``golden``: what the campaign's handlers must compute; a worker with
    other bits (another instruction set) is not given any work.
    """

    factory: Callable[..., Handler]
    arguments: tuple[Any, ...]
    golden: Mapping[str, str]


@dataclass(frozen=True)
class Limits:
    """How long to wait and how often to try.

    hang_factor: a run is a hang after this many times its golden run, but not before floor_s seconds. open_s: to start
    a worker, load and run the golden. A fault that failed alone is DUE if it fails ``confirmations`` more times alone,
    each on a fresh worker. Failures of the infrastructure (memory, a killed worker) are retried ``retries`` times,
    after backoff_s seconds, doubled each time; then the unit is left. ``left_in_a_row``: the campaign stops when so many
    units were left and none was finished in between. On a cluster, share_s: until the shared file system shows a worker
    what was written; join_s: to wait for a first worker, or for another when all have gone.
    """

    hang_factor: float = 10.0
    floor_s: float = 10.0
    open_s: float = 900.0
    confirmations: int = 2
    retries: int = 3
    backoff_s: float = 2.0
    left_in_a_row: int = 10
    share_s: float = 75.0
    join_s: float = 300.0

    def timeout_s(self, golden_s: float) -> float:
        return max(self.floor_s, self.hang_factor * golden_s)


@dataclass
class SlotTally:
    """What happened on the way to a unit's rows, as `Report` counts it."""

    engine_seconds: float = 0.0
    crashes: int = 0
    hangs: int = 0
    losses: int = 0
    blamed: int = 0


@dataclass
class Report:
    """What a run of units came to. worker_seconds: workers x wall, while they could have worked."""

    done: int = 0
    left: dict[int, str] = field(default_factory=dict)  # unit number -> why
    engine_seconds: float = 0.0
    worker_seconds: float = 0.0
    wall_seconds: float = 0.0
    crashes: int = 0  # runs that ended in a crash, a hang or an EngineError
    hangs: int = 0
    losses: int = 0  # infrastructure failures
    blamed: int = 0  # faults found to be DUE
    refused: list[str] = field(default_factory=list)  # workers that got no work, by name, and why

    def count(self, tally: SlotTally) -> None:
        """Count what happened on the way to a unit's rows."""
        self.engine_seconds += tally.engine_seconds
        self.crashes += tally.crashes
        self.hangs += tally.hangs
        self.losses += tally.losses
        self.blamed += tally.blamed

    def __add__(self, other: Report) -> Report:
        """Add up two runs, one after the other."""
        return Report(
            done=self.done + other.done,
            left=self.left | other.left,
            engine_seconds=self.engine_seconds + other.engine_seconds,
            worker_seconds=self.worker_seconds + other.worker_seconds,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            crashes=self.crashes + other.crashes,
            hangs=self.hangs + other.hangs,
            losses=self.losses + other.losses,
            blamed=self.blamed + other.blamed,
            refused=self.refused + other.refused,
        )

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that was spent in the engine."""
        return self.engine_seconds / self.worker_seconds if self.worker_seconds > 0 else 0.0

    def check_complete(self) -> None:
        """Raises TestbedError when units were left."""
        if self.left:
            last = list(self.left.values())[-1]
            left = "1 unit of work is left" if len(self.left) == 1 else f"{len(self.left)} units of work are left"
            whose = "its" if len(self.left) == 1 else "their"
            raise TestbedError(
                f"{left}, {self.done} were done and are kept; {whose} workers were lost again and again ({last});"
                " run the same command again to go on"
            )


Keep = Callable[[Unit, bytes], None]
Drop = Callable[[Sequence[Unit]], None]
Tick = Callable[[int], None]


class WorkerPool(Protocol):
    """Workers that stay open between runs (rounds of an adaptive campaign). Local, or on a cluster."""

    def begin(self) -> None:
        """Starts workers ahead of the first run, where that can be done, and does not wait for them."""
        ...

    def run(self, units: Iterable[Unit], keep: Keep, tick: Tick = ..., drop: Drop = ...) -> Report:
        """Hands out the units; ``keep(unit, rows)`` is called in this thread, in order of completion, once per unit.
        ``drop(units)`` takes back what was kept, in this run or an earlier one, and turned out not to be believed; each is
        kept again later.

        ``tick(workers)`` about once a second. On Ctrl-C, and on any other exception, workers end at once; units that
        were finished are kept. Raises what a handler raised, TestbedError when no worker is left.
        """
        ...
