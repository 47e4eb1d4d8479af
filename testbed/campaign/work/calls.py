"""What is asked of a handler in another process: one class per call, which travels by pickle and is applied there.

Imports nothing heavy: worker processes import it with the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Due, Handler, MakeStream

Returned = TypeVar("Returned", covariant=True)


class HandlerCall(Protocol[Returned]):
    """A call of a `testbed.campaign.work.contract.Handler`. ``name``: for messages."""

    name: ClassVar[str]

    def __call__(self, handler: Handler, /) -> Returned: ...


@dataclass(frozen=True)
class GetGolden:
    name: ClassVar[str] = "golden"

    def __call__(self, handler: Handler) -> dict[str, str]:
        return handler.golden()


@dataclass(frozen=True)
class GetGoldenSeconds:
    unit: Unit
    faults: int
    name: ClassVar[str] = "golden_seconds"

    def __call__(self, handler: Handler) -> float:
        return handler.golden_seconds(self.unit, self.faults)


@dataclass(frozen=True)
class UnitCall:
    unit: Unit
    faults: Sequence[int] | None
    retried: bool
    name: ClassVar[str] = "run"


class RunUnit(UnitCall):
    def __call__(self, handler: Handler) -> bytes:
        return handler.run(self.unit, self.faults, self.retried)


class EvaluateUnit(UnitCall):
    """Has a handler in this process run a unit, whose rows are yet to be made."""

    def __call__(self, handler: Handler) -> MakeStream:
        return handler.evaluate(self.unit, self.faults, self.retried)


@dataclass(frozen=True)
class BlameFaults:
    unit: Unit
    faults: Sequence[int]
    due: Due
    name: ClassVar[str] = "blame"

    def __call__(self, handler: Handler) -> bytes:
        return handler.blame(self.unit, self.faults, self.due)


@dataclass(frozen=True)
class GetEngineSeconds:
    name: ClassVar[str] = "engine_seconds"

    def __call__(self, handler: Handler) -> float:
        return handler.engine_seconds()
