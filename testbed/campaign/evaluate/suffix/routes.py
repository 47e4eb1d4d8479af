"""Which way a strike goes through the segments: decided by its site, and by whether it keeps to one token."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Injections
from testbed.campaign.evaluate.suffix.shortcuts import Shortcuts
from testbed.core.protected import PREFIX
from testbed.core.site import Site
from testbed.instrument.cut.stages import Stages
from testbed.instrument.ports.feed import NO_SITE, OP


class Way(IntEnum):
    """``WHOLE``: the whole twin. ``DEAD``: not run. ``OUTPUT``: the struck tensor is the output.

    ``CUT``: it is where the next stage starts. ``INSIDE``: it is what a stage's attention takes. ``TWIN``: its stage is
    run with ports. ``FRONT``, ``MIDDLE``, ``TAIL``: the part of its stage in which its token is followed alone.
    """

    WHOLE = 0
    DEAD = 1
    OUTPUT = 2
    CUT = 3
    INSIDE = 4
    TWIN = 5
    FRONT = 6
    MIDDLE = 7
    TAIL = 8


@dataclass(frozen=True)
class Route:
    """How injections at one site are evaluated. ``single``: of those at one token; ``any``: of others. axis: of the
    tokens, per image.

    ``armed``: the element is struck by a port; otherwise it is an input of its segment, and struck before it is fed.
    """

    site: Site
    stage: int
    single: Way
    any: Way
    axis: int | None = None
    armed: bool = True

    def tokens(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of flat indices; 0 where the site has no tokens that matter."""
        if self.axis is None:
            return np.zeros_like(index)
        inner = int(np.prod(self.site.shape[self.axis + 1 :], dtype=np.int64))
        return index // inner % self.site.shape[self.axis]

    def in_row(self, index: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
        """Flat indices in a tensor of ``rows`` tokens whose first is the struck one."""
        assert self.axis is not None
        inner = int(np.prod(self.site.shape[self.axis + 1 :], dtype=np.int64))
        outer = index // (inner * self.site.shape[self.axis])
        return outer * rows * inner + index % inner


class Routes:
    """The routes of all sites of the whole twin, by its port number."""

    def __init__(self, stages: Stages, plan: Shortcuts) -> None:
        self._stages, self._plan = stages, plan
        sites = [site for site in stages.table if site.where == "activation"]
        self.routes = [self._route(site) for site in sites]
        self._dead = [self._dead_tokens(site) if plan.dead else None for site in sites]

    def ways(self, injections: Injections) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int64]]:
        """(n,) the way of each strike, its (first) port number, and the token it keeps to, -1 where there is none."""
        site, index = injections.ports.site, injections.ports.index
        used = site != NO_SITE
        first = np.where(used.any(axis=1), np.take_along_axis(site, used.argmax(axis=1)[:, None], 1)[:, 0], 0)
        same = (~used | (site == first[:, None])).all(axis=1) & used.any(axis=1)
        ways = np.full(len(site), Way.WHOLE, np.int8)
        tokens = np.full(len(site), -1, np.int64)
        for number in np.unique(first[same]):
            rows = np.flatnonzero(same & (first == number))
            ways[rows], tokens[rows] = self._at(int(number), index[rows], used[rows])
        return self._in_one_stage(injections, ways, first, same), first, tokens

    def _at(
        self, number: int, index: NDArray[np.int64], used: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        route = self.routes[number]
        token = route.tokens(index)
        own = np.take_along_axis(token, used.argmax(axis=1)[:, None], 1)
        alone = (~used | (token == own)).all(axis=1)
        ways = np.where(alone, route.single, route.any).astype(np.int8)
        alive = self._dead[number]
        if alive is not None:
            axis, which = alive
            rows = Route(route.site, 0, route.single, route.any, axis).tokens(index)
            ways[(~used | ~np.isin(rows, which)).all(axis=1)] = Way.DEAD
        return ways, np.where(alone & (route.axis is not None), own[:, 0], -1)

    def _in_one_stage(
        self, injections: Injections, ways: NDArray[np.int8], first: NDArray[np.int64], same: NDArray[np.bool_]
    ) -> NDArray[np.int8]:
        """A strike at several sites of one stage is run with that stage's ports, if these can be armed together."""
        if self._stages.table.mechanism != OP or same.all():
            return ways
        ends = {stage.end for stage in self._stages.stages}
        stage_of = np.array([NO_SITE if r.site.tensor in ends else r.stage for r in self.routes])
        for row in np.flatnonzero(~same):
            stages = set(stage_of[injections.ports.site[row][injections.ports.site[row] != NO_SITE]])
            if len(stages) == 1 and NO_SITE not in stages:
                ways[row] = Way.TWIN
        return ways

    def _route(self, site: Site) -> Route:
        stage = self._stages.by_site.get(site.name)
        if stage is None or site.name.startswith(PREFIX):  # sums of checks round otherwise in parts of the engine
            return Route(site, 0, Way.WHOLE, Way.WHOLE)
        number, rowed, plan = stage.number, stage.rowed, self._plan
        if site.tensor == stage.end:
            way = Way.OUTPUT if stage.number == len(self._stages.stages) - 1 else Way.CUT
            return Route(site, number, way, way, 0 if way == Way.CUT else None, armed=False)
        if rowed is None:
            return Route(site, number, Way.TWIN, Way.TWIN)
        taken = site.tensor in rowed.middle_inputs and plan.inside
        otherwise = Way.INSIDE if taken else Way.TWIN
        if plan.rows:
            for way, part in ((Way.FRONT, rowed.front), (Way.MIDDLE, rowed.middle), (Way.TAIL, rowed.tail)):
                if part is None or (way == Way.FRONT and not plan.inside):
                    continue
                if (need := part.inputs.get(site.tensor)) is not None:
                    return Route(site, number, way, otherwise, need.axis - 1, armed=False)
                if site.tensor in part.axes:
                    return Route(site, number, way, Way.TWIN, part.axes[site.tensor] - 1)
        return Route(site, number, otherwise, otherwise, armed=not taken)

    def _dead_tokens(self, site: Site) -> tuple[int, NDArray[np.int64]] | None:
        """(axis per image, positions that are alive); None where all of the site is."""
        if site.name not in self._stages.dead:
            return None
        rows = self._stages.dead[site.name]
        if rows is None:
            return 0, np.zeros(0, np.int64)
        assert rows.which is not None
        return (rows.axis - 1, np.array(sorted(rows.which))) if rows.axis else None
