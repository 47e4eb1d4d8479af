"""Whether two campaigns are of one model: by the hash of its trained weights where both have one, else by the weights in
their plain files."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from testbed.campaign.files import Files
from testbed.compare.side import Side
from testbed.core.arrays import Float32s
from testbed.core.errors import UsageError
from testbed.core.site import SiteTable
from testbed.instrument.quantised import FLOATS

_TARGET = "model"
_ROUNDING = (
    0.02  # of a tensor's norm: more than any number format's; two trained models are further apart than the norm
)
_ABSOLUTE = 1e-6  # per element: half precision has nothing between 0 and 6e-8
_RESCALED = ("attn.q.", "attn.k.", "attn.qkv.")  # exporters may fold the attention's scale into these


def check_same_model(a: Side, b: Side) -> str | None:
    """A note where nothing tells whether the model is the same one. Raises UsageError for two models."""
    if a.model_hash is not None and b.model_hash is not None:
        if a.model_hash != b.model_hash:
            raise UsageError(
                f"{a.path} and {b.path} are campaigns of two trained models; compare two campaigns of one model"
            )
        return None
    if not all(_TARGET in side.spec.targets for side in (a, b)):
        return None  # then no fault of the two pairs
    tables = [_site_table(side) for side in (a, b)]
    if tables[0].deployment_id == tables[1].deployment_id:
        return None
    compared = list(_compared(*(_weights(side, table) for side, table in zip((a, b), tables, strict=True))))
    differing = [name for name, is_close in compared if not is_close]
    if differing:
        raise UsageError(
            f"{a.path} and {b.path} are campaigns of two models: {len(differing)} of {len(compared)} weights differ by"
            f" more than rounding, such as {differing[-1]}; compare two campaigns of one model"
        )
    if not compared:
        return "nothing tells whether A and B are of one model: no weight has the same name and shape in both files"
    return None


def _site_table(side: Side) -> SiteTable:
    side.folder.verify_file(Files(_TARGET).sites)
    return SiteTable.load(side.folder / Files(_TARGET).sites)


def _weights(side: Side, table: SiteTable) -> dict[str, Float32s]:
    """Weights that the plain file holds as floating-point numbers, by the names of their sites, in their own shape."""
    side.folder.verify_file(Files(_TARGET).plain)
    graph = onnx.load(str(side.folder / Files(_TARGET).plain)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in FLOATS}
    weights = {}
    for site in table:
        if site.where == "weight" and site.tensor in stored:
            values = numpy_helper.to_array(stored[site.tensor]).astype(np.float32)
            weights[site.name] = (values.T if site.transposed else values).reshape(site.shape)
    return weights


def _compared(a: dict[str, Float32s], b: dict[str, Float32s]) -> Iterator[tuple[str, bool]]:
    """Names of weights that both have, and whether they are the same but for rounding."""
    for name in a:
        if name in b and a[name].shape == b[name].shape and not any(part in name for part in _RESCALED):
            first, second = a[name].astype(np.float64), b[name].astype(np.float64)
            allowed = _ROUNDING * np.linalg.norm(first) + _ABSOLUTE * math.sqrt(first.size)
            yield name, bool(np.linalg.norm(first - second) <= allowed)
