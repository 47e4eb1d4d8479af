"""A worker whose engine crashes on some faults and hangs on others, really, in the worker's own process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from testbed.campaign.execute.worker import Worker
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.unit import Unit

CRASHES, HANGS = {77, 4700}, {5100}  # numbers in the tiny plan: an activation, a weight, a weight of the subnetwork


class Sabotaged(Worker):
    def run(self, unit: Unit, faults: Sequence[int] | None = None, retried: bool = False) -> bytes:
        faulty = {unit.start + fault for fault in (range(len(unit)) if faults is None else faults)}
        if faulty & CRASHES:
            os.abort()
        if faulty & HANGS:
            ctypes.CDLL(None).pause()
        return super().run(unit, faults, retried)


def open_sabotaged(folder: str) -> Sabotaged:
    return Sabotaged(Workplace.at(Path(folder)))
