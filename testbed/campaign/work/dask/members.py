"""Who is at work on a Dask cluster: workers are greeted when they come, refused by name, and missed when they go."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.dask.access import check_address, check_certificates, is_safe
from testbed.campaign.work.dask.worker import Answer, Hello, Job, introduce, stop
from testbed.core.errors import TestbedError, UsageError

try:
    from distributed import Client, Future
except ImportError as error:
    raise UsageError("--scheduler needs Dask: pip install 'testbed[cluster]'") from error

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
_GATHER_S = 60.0


@dataclass(eq=False)
class Member:
    """A worker, by its address. units: given to it and not yet answered, by the name of the task."""

    address: str
    threads: int
    hello: Future | None = None  # none of one that is not even spoken to
    name: str = ""
    greeted: bool = False
    refused: str | None = None
    units: dict[str, tuple[Future, Unit]] = field(default_factory=dict)

    @property
    def fit(self) -> bool:
        return self.greeted and self.refused is None

    @property
    def has_room(self) -> bool:
        """One more than it can run at a time, so that it need not wait for the next."""
        return self.fit and len(self.units) <= self.threads

    def __str__(self) -> str:
        return f"{self.address}, {self.name}" if self.name else self.address


class TaskEnd(NamedTuple):
    """A task that is over, one way or another."""

    member: Member
    future: Future


class Members:
    """All workers that a scheduler knows. Each is told of one job, and runs only tasks that are pinned to it."""

    def __init__(self, address: str, insecure: bool = False) -> None:
        """Connects to the scheduler. insecure: also where anybody can join. Raises UsageError for an address that is
        not safe, TestbedError where no scheduler answers."""
        check_address(address, insecure)
        check_certificates(address)
        self.address, self._insecure = address, insecure
        self.members: dict[str, Member] = {}
        self.events: queue.Queue[TaskEnd] = queue.Queue()
        self._seen = time.monotonic()
        self._job: Job | None = None
        try:
            self._client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise TestbedError(
                f"no Dask scheduler answers at {address}; start one with `dask scheduler`, or correct --scheduler"
                + (", or its certificates are of another authority" if address.startswith("tls://") else "")
            ) from error

    @property
    def fit(self) -> list[Member]:
        return [member for member in self.members.values() if member.fit]

    def begin(self, job: Job) -> None:
        """Begins a job. If it changed, members that have not loaded the one before are greeted anew."""
        if job != self._job:
            self.members = {address: member for address, member in self.members.items() if member.fit}
        self._job = job
        self._seen = time.monotonic()

    def poll(self) -> list[Member]:
        """Greets who has come and forgets who has gone; returns these. Raises TestbedError where nobody can work."""
        present = self.present()
        gone = [self.members.pop(address) for address in list(self.members) if address not in present]
        for address, threads in present.items():
            if address not in self.members:
                self.members[address] = self._greet(address, threads)
        self._check_anyone()
        return gone

    def present(self) -> dict[str, int]:
        """Threads of each worker, by its address."""
        try:
            if self._client.status != "running":
                raise OSError(f"the client is {self._client.status}")
            return dict(self._client.nthreads())
        except Exception as error:  # whatever Dask raises where nobody answers any more
            raise TestbedError(
                f"the Dask scheduler at {self.address} is gone; finished units are kept; start it again and run the same"
                " command again to go on"
            ) from error

    def _greet(self, address: str, threads: int) -> Member:
        member = Member(address, threads)
        if not self._insecure and not is_safe(address):  # the scheduler listens there, too
            self.refuse(member, "it is neither on this machine nor at tls://; use certificates, or --insecure")
            return member
        name = _task_name(introduce)
        member.hello = self._client.submit(introduce, self._job, key=name, workers=[address], pure=False)
        member.hello.add_done_callback(lambda done: self.events.put(TaskEnd(member, done)))
        return member

    def _check_anyone(self) -> None:
        assert self._job is not None
        now = time.monotonic()
        refusals = [f"{member}: {member.refused}" for member in self.members.values() if member.refused is not None]
        if len(refusals) < len(self.members):
            self._seen = now
        elif refusals:
            raise TestbedError(f"no worker at {self.address} can take part: {'; '.join(refusals)}")
        elif now - self._seen > self._job.limits.join_s:
            raise TestbedError(
                f"no worker has come to {self.address} for {self._job.limits.join_s:.0f} s; start some with `dask worker"
                f" {self.address}` and run the same command again to go on"
            )

    def greeted(self, member: Member) -> None:
        """A worker has said who it is. Raises the TestbedError that its handler raised."""
        assert member.hello is not None
        if member.hello.status == "error":
            error = member.hello.exception()
            if isinstance(error, TestbedError):
                raise error
            self.refuse(member, f"{type(error).__name__}: {error}")
            return
        try:
            hello = gathered(member.hello, Hello)
        except OtherProgram as other:
            self.refuse(member, str(other))
            return
        if hello is not None:  # else it has vanished
            member.greeted, member.name = True, hello.name
            if hello.refused is not None:
                self.refuse(member, hello.refused)

    def refuse(self, member: Member, why: str) -> None:
        member.refused = why
        log.warning("worker %s, is refused: %s", member, why)

    def give(self, member: Member, task: Callable[..., Any], unit: Unit) -> None:
        """Submits the unit to the member; its end arrives among the events."""
        future = self._client.submit(
            task, self._job, unit, key=_task_name(task), workers=[member.address], allow_other_workers=False, pure=False
        )
        member.units[str(future.key)] = (future, unit)
        future.add_done_callback(lambda done: self.events.put(TaskEnd(member, done)))

    def take_back(self, member: Member) -> Iterator[Unit]:
        """What it was given and has not answered; it need not go on with that."""
        futures = [future for future, _ in member.units.values()]
        units = [unit for _, unit in member.units.values()]
        member.units.clear()
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)
        yield from units

    def stop(self) -> None:
        """Ends the children of all workers, whatever they are doing."""
        reached = [member.address for member in self.members.values() if member.greeted]
        if self._job is not None and reached:
            with contextlib.suppress(Exception):
                self._client.run(stop, self._job.token, workers=reached, on_error="ignore")

    def close(self) -> None:
        self.stop()
        self._client.close(timeout=5)


class OtherProgram(TestbedError):
    """What answers is not this testbed."""


Reply = TypeVar("Reply", Hello, Answer)


def gathered(future: Future, kind: type[Reply]) -> Reply | None:
    """A finished task's result, of this kind; None where its worker has vanished with it. Raises OtherProgram for a result
    of another kind."""
    if future.status != "finished":
        return None
    try:
        result = future.result(timeout=_GATHER_S)
    except Exception:  # it was on its way
        return None
    if not isinstance(result, kind):
        raise OtherProgram(f"its answer is of type {type(result).__name__}")
    return result


def _task_name(task: Callable[..., Any]) -> str:
    return f"testbed-{task.__name__}-{uuid.uuid4().hex}"
