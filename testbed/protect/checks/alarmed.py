"""Which checks raise an alarm: what `detected` does not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, numpy_helper

from testbed.protect.checks.bounds import places_by_group
from testbed.protect.contract import Applied
from testbed.protect.observe import ImageSource, values


def alarmed_checks(
    proto: ModelProto, applied: Sequence[Applied], images: ImageSource, engine: str, precision: str
) -> dict[str, int]:
    """Pass and name of each check that raises an alarm -> of how many images; the one of most images first."""
    counts: dict[str, int] = {}
    for done in applied:
        groups = places_by_group(proto, done)
        names = [f"{group}.value" for group in groups]
        seen = values(proto, names, images, engine, precision) if groups else {}
        for group, places in groups.items():
            low, high = (_stored(proto, f"{group}.{end}") for end in ("low", "high"))
            value = seen[f"{group}.value"]
            outside = (~((value >= low) & (value <= high))).sum(axis=0)  # NaN is within nothing
            counts |= {f"{done.name} {p.name} ({p.kind})": int(n) for p, n in zip(places, outside, strict=True) if n}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _stored(proto: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in proto.graph.initializer if tensor.name == name))
