"""How much work a strike leaves: what the ceiling of an injection rate is computed from."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.suffix.routes import Routes, Way
from testbed.campaign.evaluate.suffix.segments import Segments
from testbed.instrument.cut.stages import StagePart, Stages
from testbed.instrument.cut.work import macs


class Costs:
    """Costs of evaluations, as shares of the multiply-accumulates of a whole inference."""

    def __init__(self, stages: Stages, segments: Segments, routes: Routes) -> None:
        self._stages, self._segments, self._routes = stages, segments, routes
        self._flow, self._plan = stages.flow, segments.plan
        self._whole = macs(self._flow, range(len(self._flow.nodes))) or 1.0
        self._suffix, self._of = cache(self._macs_of_suffix), cache(self._macs_of)

    def of(self, ways: NDArray[np.int8], ports: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) of strikes by their way and port number."""
        shares = np.empty(len(ways))
        for way, port in set(zip(ways.tolist(), ports.tolist(), strict=True)):
            shares[(ways == way) & (ports == port)] = self._of(Way(way), port) / self._whole
        return shares

    def _macs_of(self, way: Way, port: int) -> float:
        stages, route = self._stages.stages, self._routes.routes[port]
        stage, rowed = stages[route.stage], stages[route.stage].rowed
        last = route.stage + 1 == len(stages)
        if way == Way.WHOLE:
            return self._whole
        if way in (Way.DEAD, Way.OUTPUT):
            return 0.0
        if way == Way.CUT:
            return self._entering(route.stage + 1)
        if way == Way.INSIDE:
            return self._suffix(route.stage, True)
        if way == Way.TWIN or rowed is None:
            own = macs(self._flow, self._flow.between(stage.inputs, stage.outputs))
            return own + (0.0 if last else self._suffix(route.stage + 1, False))
        if way == Way.FRONT:
            return self._macs_of_part(rowed.front) + self._suffix(route.stage, True)
        middle = self._macs_of_part(rowed.middle) if way == Way.MIDDLE else 0.0
        return middle + self._macs_of_part(rowed.tail) + self._entering(route.stage + 1)

    def _entering(self, number: int) -> float:
        """Cost of one changed token at the start of a stage."""
        rowed = self._stages.stages[number].rowed
        if rowed is not None and self._plan.rows:
            if rowed.middle is None:
                return self._macs_of_part(rowed.tail) + self._entering(number + 1)
            if rowed.front is not None and self._plan.inside:
                return self._macs_of_part(rowed.front) + self._suffix(number, True)
        return self._suffix(number, False)

    def _macs_of_part(self, part: StagePart | None) -> float:
        if part is None:
            return 0.0
        places = self._flow.between([*part.inputs], [*part.outputs])
        return macs(self._flow, places, self._segments.part_model(part).shapes)

    def _macs_of_suffix(self, stage: int, inside: bool) -> float:
        stop = self._segments.stop_of(stage)
        few, inputs = self._segments.span_model(stage, inside, stop)
        own = macs(self._flow, self._flow.between(inputs, [self._stages.stages[stop - 1].end]), few.shapes)
        return own if stop == len(self._stages.stages) else own + self._suffix(stop, False)
