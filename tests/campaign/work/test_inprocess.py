"""A pool without processes: the engine runs in this thread, and its rows are made in another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Opener
from testbed.campaign.work.pool import LocalPool
from testbed.core.errors import TestbedError
from tests.support.pool_site import PATIENT, Site, assert_rows, units
from tests.support.toy_handler import Toy


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_ctrl_c_in_this_process_keeps_what_is_done(site: Site) -> None:
    def stream() -> Iterator[Unit]:
        yield from units(3)
        raise KeyboardInterrupt

    def keep(unit: Unit, rows: bytes) -> None:
        time.sleep(0.1)  # it comes while rows wait
        site.keep(unit, rows)

    with LocalPool(site.opener(), 0, PATIENT) as pool, pytest.raises(KeyboardInterrupt):
        pool.run(stream(), keep)
    assert_rows(site.rows, 3)


def test_in_this_process_rows_are_made_beside_the_engine(site: Site) -> None:
    threads: list[threading.Thread] = []

    class Observed(Toy):
        def evaluate(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> Callable[[], bytes]:
            make = super().evaluate(unit, faults, retried)

            def made() -> bytes:
                threads.append(threading.current_thread())
                return make()

            return made

    with LocalPool(Opener(Observed, (str(site.folder),), {"model.activation": "toy"}), 0, PATIENT) as pool:
        pool.run(units(3), site.keep)
    assert_rows(site.rows, 3)
    assert threading.main_thread() not in threads
    assert len(threads) == 3


def test_too_little_memory_for_rows_is_told_in_a_line(site: Site) -> None:
    class Forgetful(Toy):
        def evaluate(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> Callable[[], bytes]:
            def made() -> bytes:
                raise MemoryError

            return made

    opener = Opener(Forgetful, (str(site.folder),), {"model.activation": "toy"})
    with (
        LocalPool(opener, 0, PATIENT) as pool,
        pytest.raises(TestbedError, match="out of memory while rows were made; run"),
    ):
        pool.run(units(3), site.keep)


def test_rows_are_made_at_the_second_try_where_memory_was_short(site: Site) -> None:
    tries: list[int] = []

    class Short(Toy):
        def evaluate(self, unit: Unit, faults: Sequence[int] | None, retried: bool = False) -> Callable[[], bytes]:
            make = super().evaluate(unit, faults, retried)

            def made() -> bytes:
                tries.append(unit.number)
                if tries.count(unit.number) == 1:
                    raise MemoryError
                return make()

            return made

    with LocalPool(Opener(Short, (str(site.folder),), {"model.activation": "toy"}), 0, PATIENT) as pool:
        pool.run(units(2), site.keep)
    assert_rows(site.rows, 2)
    assert tries == [0, 0, 1, 1]
