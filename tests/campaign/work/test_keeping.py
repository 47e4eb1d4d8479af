"""Keeping in a thread: everything in order, never far behind, and what goes wrong is heard of."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from testbed.campaign.work.keeping import KeepingThread
from testbed.core.errors import TestbedError


def keep_all(keep: Callable[[int], None], numbers: Iterable[int]) -> None:
    with KeepingThread(keep) as keeping:
        for number in numbers:
            keeping.put(number)


def test_everything_is_kept_in_order_by_the_end_of_the_block() -> None:
    kept: list[int] = []
    keep_all(kept.append, range(100))
    assert kept == list(range(100))


def test_keeping_goes_on_beside_the_block_and_is_waited_for_when_it_is_behind() -> None:
    kept: list[int] = []
    go_on = threading.Event()
    behind = []

    def keep(number: int) -> None:
        assert go_on.wait(60)
        kept.append(number)

    def numbers() -> Iterator[int]:
        for number in range(50):
            behind.append(number - len(kept))
            yield number
            go_on.set()  # got here although nothing could be kept yet

    keep_all(keep, numbers())
    assert max(behind) <= 2
    assert kept == list(range(50))


@pytest.mark.parametrize("last", [2, 100])
def test_what_cannot_be_kept_ends_the_block_with_its_own_message_and_nothing_is_kept_after(last: int) -> None:
    kept: list[int] = []
    put: list[int] = []

    def keep(number: int) -> None:
        if number == 2:
            raise TestbedError("the disk is full")
        kept.append(number)

    def numbers() -> Iterator[int]:
        for number in range(last + 1):
            put.append(number)
            yield number

    with pytest.raises(TestbedError, match=r"^the disk is full$"):
        keep_all(keep, numbers())
    assert kept == [0, 1]
    assert len(put) <= 2 + 3


def test_what_ends_the_block_loses_nothing_and_is_what_is_raised() -> None:
    kept: list[int] = []

    def keep(number: int) -> None:
        time.sleep(0.05)
        kept.append(number)

    def numbers() -> Iterator[int]:
        yield from range(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_all(keep, numbers())
    assert kept == [0, 1]


def test_ctrl_c_while_there_is_no_room_loses_nothing() -> None:
    kept: list[int] = []
    put: list[int] = []

    def keep(number: int) -> None:
        if number == 0:
            time.sleep(0.1)  # by now there is no room for another
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)
        kept.append(number)

    def numbers() -> Iterator[int]:
        for number in range(10):
            put.append(number)
            yield number

    with pytest.raises(KeyboardInterrupt):
        keep_all(keep, numbers())
    assert kept == put
    assert len(put) < 10
