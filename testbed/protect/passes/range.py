"""Range guards: values of a site outside of what it holds without a fault are brought back into it.

Ranger (arXiv 2003.13874) and MaxiMals (DAC 2024) in standard operators. A guard stands between a site and all that takes
it: Clip, then NaN by a choice of its own, since engines disagree on what Clip makes of NaN.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Literal, get_args

import ml_dtypes
import numpy as np
from onnx import ModelProto, TensorProto
from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError
from testbed.core.protected import PREFIX
from testbed.core.words.nearest import meant, unknown
from testbed.protect.contract import Applied, CalibrationSet, ProtectedPlace
from testbed.protect.graph import GraphEditor
from testbed.protect.observe import Extremes, extremes

NanPolicy = Literal["zero", "keep"]
NAN_POLICIES: tuple[NanPolicy, ...] = get_args(NanPolicy)
USUAL = ("*.attn.k", "*.attn.v", "*.mlp.residual", "norm")
"""Where guards do most for what they cost: a faulty key or value reaches every token, the rest goes through the residual."""
_STEP = f"{PREFIX}range"
_FLOATS: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class RangePass:
    """``where``: patterns of sites, "!" leads one that is left out; ``margin``: how much wider than the calibration images'
    the guarded range is, 1 or more; ``nan``: what becomes of NaN: 0, or it is kept."""

    where: tuple[str, ...] = USUAL
    margin: float = 1.3
    nan: NanPolicy = "zero"

    name = "range"
    detects = False
    corrects = True

    def __post_init__(self) -> None:
        if not 1 <= self.margin < np.inf:
            raise UsageError(f"a margin widens the range that was seen: it is 1 or more, not {self.margin:g}")
        if self.nan not in NAN_POLICIES:
            raise UsageError(unknown("NaN policy", self.nan, NAN_POLICIES))

    def requires(self, graph: GraphEditor) -> None:
        """Raises UsageError where a pattern names no site, or none that can be guarded is left."""
        if not self._chosen(graph)[0]:
            raise UsageError(f"--where {','.join(self.where)} leaves no site that a range guard can stand at")

    def planned(self, graph: GraphEditor) -> tuple[list[str], dict[str, str]]:
        """The guarded sites."""
        chosen, left_out = self._chosen(graph)
        return list(chosen), left_out

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What was asked for."""
        return {"where": list(self.where), "margin": self.margin, "nan": self.nan}

    def call(self, proto: ModelProto, calibration: CalibrationSet) -> tuple[ModelProto, Applied]:
        """Guard every chosen site."""
        graph = GraphEditor(proto)
        chosen, left_out = self._chosen(graph)
        seen = extremes(proto, list(chosen.values()), calibration.images, calibration.engines[0], calibration.precision)
        places = tuple(self.add_guard(graph, site, tensor, seen[tensor]) for site, tensor in chosen.items())
        return graph.finished(), Applied(self.name, self.settings, places, left_out)

    def ensures(self, proto: ModelProto, applied: Applied) -> None:
        """Every guard stands between its site and all that takes the site's values."""
        graph = GraphEditor(proto)
        for spot in applied.places:
            for node in graph.consumers(graph.sites[spot.name].tensor):
                if not all(name.startswith(PREFIX) for name in node.output):
                    raise TestbedError(f"range: {node.output[0]!r} is computed from {spot.name} past its guard")

    def _chosen(self, graph: GraphEditor) -> tuple[dict[str, str], dict[str, str]]:
        """Site -> tensor, and those left out -> why."""
        outputs = {value.name for value in graph.proto.graph.output}
        wanted = chosen_sites(list(graph.sites), self.where, USUAL)
        chosen, left_out = {}, {}
        for name in wanted:
            tensor = graph.sites[name].tensor
            if tensor in outputs or not graph.consumers(tensor):
                left_out[name] = "it is the output itself: nothing takes it that a guard could stand before"
            elif graph.element(tensor) not in _FLOATS:
                left_out[name] = "its numbers are integers, which saturate where they are made"
            else:
                chosen[name] = tensor
        return chosen, left_out

    def add_guard(self, graph: GraphEditor, site: str, tensor: str, seen: Extremes) -> ProtectedPlace:
        """Put a guard between a tensor and all that takes it. seen: its extremes on the calibration images."""
        dtype = _FLOATS[graph.element(tensor)]
        low, high = bounds(seen, self.margin, dtype)
        step = f"{_STEP}.{site}"
        ends = [graph.constant(f"{step}.{name}", np.array(end, dtype)) for name, end in (("low", low), ("high", high))]
        clipped = graph.add("Clip", [tensor, *ends], f"{step}.clip")
        nan = graph.add("IsNaN", [tensor], f"{step}.isnan")
        instead = tensor if self.nan == "keep" else graph.constant(f"{_STEP}.zero.{dtype.name}", np.zeros((), dtype))
        guarded = graph.add("Where", [nan, instead, clipped], step)
        graph.redirect(tensor, guarded)
        covers = (site,)
        return ProtectedPlace(
            site, "guard", covers, low, high, max(abs(float(seen.low.min())), abs(float(seen.high.max())))
        )


def bounds(seen: Extremes, margin: float, dtype: np.dtype) -> tuple[float, float]:
    """The range of all images, its half-width times ``margin``, rounded outward to the format."""
    low, high = float(seen.low.min()), float(seen.high.max())
    middle, half = (low + high) / 2, (high - low) / 2 * margin
    limit = float(ml_dtypes.finfo(dtype).max)
    return _outward(max(middle - half, -limit), dtype, -np.inf), _outward(min(middle + half, limit), dtype, np.inf)


def _outward(value: float, dtype: np.dtype, towards: float) -> float:
    near = np.array(value, dtype)
    if (float(near) < value) if towards > 0 else (float(near) > value):
        near = np.nextafter(near, np.array(towards, dtype))
    return float(near)


def chosen_sites(sites: list[str], patterns: tuple[str, ...], usual: tuple[str, ...] = ()) -> list[str]:
    """Sites that match any pattern, less those that match one led by "!", in their order. Raises UsageError for a pattern
    that matches none, unless all are the ``usual`` ones: not every file has them."""
    chosen: set[str] = set()
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        hits = set(fnmatch.filter(sites, wanted))
        if not hits and patterns != usual:
            raise UsageError(
                f"no site matches {wanted!r}{meant(wanted, sites) or ';'} there are"
                f" {len(sites)}: {', '.join(sites[:8])}, ..."
            )
        chosen = chosen - hits if pattern.startswith("!") else chosen | hits
    return [site for site in sites if site in chosen]
