"""What a plain ONNX file offers to strike: sites with human names, and all its other tensors under their own.

Our exports name their sites themselves. In anybody else's file they are recognised by the graph's pattern.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx
from onnx import ModelProto, TensorProto

from testbed.core.errors import EngineError, UsageError
from testbed.core.protected import PREFIX
from testbed.core.site import Site
from testbed.instrument.quantised import not_storable, stored_weights
from testbed.instrument.shapes import FORMATS, PerImage, per_image
from testbed.instrument.sites.named import is_own, named_sites
from testbed.instrument.sites.patterns.site_shapes import SiteShapes
from testbed.instrument.sites.recognise import Names, recognise
from testbed.instrument.sites.unprotected import without_protection
from testbed.instrument.slicing import FROM_SHAPE

ALL = "all"


@dataclass(frozen=True)
class Catalogue:
    """``recognised``: sites with human names, activations in execution order, then weights.

    ``missing``: names that a ViT would have and this file has no tensor for -> why. ``shared``: weights that are stored
    once for several uses, where a fault strikes them all -> the names they would have.
    """

    proto: ModelProto
    recognised: tuple[Site, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    measured: Mapping[str, PerImage] | None = None

    @cached_property
    def others(self) -> tuple[Site, ...]:
        """Tensors without a human name that the batch leads alone, under their own, in the same order."""
        taken = {site.tensor for site in self.recognised}
        names = {site.name for site in self.recognised}
        activations = [
            Site(_own(name, names), "activation", tensor.shape, tensor.format_name, name)
            for name, tensor in (self.measured or per_image(self.proto)).items()
            if name not in taken and not tensor.joined
        ]
        weights = [
            Site(_own(w.name, names), "weight", tuple(w.dims), FORMATS[w.data_type], w.name)
            for w in stored_weights(self.proto)
            if w.name not in taken
        ]
        return (*activations, *weights)

    def with_tensors(self, patterns: Sequence[str]) -> tuple[Site, ...]:
        """Every recognised site, and the tensors that patterns of no such site name."""
        unmet = [p for p in patterns if not p.startswith("!") and not _hits(self.recognised, p)]
        return _in_order(self.recognised, [site for p in unmet for site in _hits(self.others, p)])

    def select(self, patterns: Sequence[str]) -> tuple[Site, ...]:
        """Sites that match any pattern, less those that match one led by "!"; "all" is every tensor of the file.

        A pattern is matched against human names first; one that matches none, against the other tensors' own. Raises
        UsageError for one that matches nothing at all.
        """
        chosen: list[Site] = []
        for pattern in patterns:
            if pattern == ALL:
                hits = [*self.recognised, *self.others]
            else:
                wanted = pattern.removeprefix("!")
                hits = _hits(self.recognised, wanted) or _hits(self.others, wanted)
            if not hits:
                names = [site.name for site in (self.recognised or self.others)]
                raise UsageError(f"no site matches {pattern!r}; there are {len(names)}: {', '.join(names[:8])}, ...")
            if pattern.startswith("!"):
                chosen = [site for site in chosen if site not in hits]
            else:
                chosen += hits
        if not chosen:
            raise UsageError("the selection leaves no site; put what is wanted before what is left out ('!PATTERN')")
        return _in_order(chosen, [])


def catalogue(plain: bytes) -> Catalogue:
    """Raises EngineError for a file of others that no engine here runs, TestbedError for one that is not valid."""
    return catalogue_of(onnx.load_from_string(plain))


def catalogue_of(proto: ModelProto) -> Catalogue:
    """`catalogue` of a model that may be lean."""
    if is_own(proto):
        return Catalogue(proto, named_sites(proto))
    named = named_sites(proto)
    try:
        tensors = per_image(proto)
    except EngineError:
        if named:
            return Catalogue(proto, named)
        raise
    unprotected = without_protection(proto)
    led = {name: tensor.shape for name, tensor in tensors.items() if not tensor.joined}
    joined = {name: tensor.shape for name, tensor in tensors.items() if tensor.joined}
    names = recognise(unprotected, SiteShapes(led, joined))
    if not names.tensors:
        return Catalogue(proto, named, measured=tensors)
    missing = dict(names.missing)
    sites = (*_activations(proto, names, tensors, missing), *_weights(proto, names, missing))
    return Catalogue(proto, sites, missing, names.shared, tensors)


def _activations(
    proto: ModelProto, names: Names, tensors: Mapping[str, PerImage], missing: dict[str, str]
) -> list[Site]:
    """Where a tensor goes on as integers only, what is struck are these. missing: names are added to it."""
    quantised = _quantised_copies(proto)
    sites = []
    for tensor in tensors:
        if tensor.startswith(PREFIX) and not tensors[tensor].joined:
            sites.append(Site(tensor, "activation", tensors[tensor].shape, tensors[tensor].format_name, tensor))
        elif tensor in names.tensors:
            stored = quantised.get(tensor, tensor)
            if stored in tensors:
                site = tensors[stored]
                human = names.tensors[tensor]
                sites.append(Site(human, "activation", site.shape, site.format_name, stored, joined=site.joined))
            else:
                missing[names.tensors[tensor]] = "quantised to a number format that faults do not strike"
    return sites


def _quantised_copies(proto: ModelProto) -> dict[str, str]:
    """Tensor -> its integers, where one QuantizeLinear is all that takes it."""
    uses: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in () if node.op_type in FROM_SHAPE else dict.fromkeys(node.input):
            uses.setdefault(name, []).append(node)
    outputs = {value.name for value in proto.graph.output}
    return {
        tensor: taken[0].output[0]
        for tensor, taken in uses.items()
        if len(taken) == 1
        and taken[0].op_type == "QuantizeLinear"
        and taken[0].input[0] == tensor
        and tensor not in outputs
    }


def _weights(proto: ModelProto, names: Names, missing: dict[str, str]) -> list[Site]:
    """Weights in the order in which the graph takes them. missing: names are added to it."""
    stored = {tensor.name: tensor for tensor in stored_weights(proto)}
    used = [name for node in proto.graph.node for name in node.input]
    sites = []
    for name in sorted(names.weights, key=used.index):
        human, turned = names.weights[name]
        if why := not_storable(proto, name):
            missing[human] = why
        elif name in stored:
            shape = tuple(stored[name].dims)
            kind = FORMATS[stored[name].data_type]
            sites.append(Site(human, "weight", shape[::-1] if turned else shape, kind, name, turned))
    checks = [
        Site(name, "weight", tuple(tensor.dims), FORMATS[tensor.data_type], name)
        for name, tensor in stored.items()
        if name.startswith(PREFIX)
    ]
    return [*sites, *_quantisation(proto, names, stored), *checks]


def _quantisation(proto: ModelProto, names: Names, stored: Mapping[str, TensorProto]) -> list[Site]:
    """Scales and zero points of named tensors and weights."""
    named = names.tensors | {tensor: human for tensor, (human, _) in names.weights.items()}
    sites: dict[str, Site] = {}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in named:
            for part, tensor in zip(("scale", "zero_point"), node.input[1:3], strict=False):
                if tensor in stored:
                    kind = FORMATS[stored[tensor].data_type]
                    site = Site(f"{named[node.input[0]]}.{part}", "weight", tuple(stored[tensor].dims), kind, tensor)
                    sites.setdefault(tensor, site)
    return list(sites.values())


def _own(tensor: str, taken: set[str]) -> str:
    """A tensor's own name, unless a site has that for a human one."""
    return tensor if tensor not in taken else f"tensor:{tensor}"


def _hits(sites: Sequence[Site], pattern: str) -> list[Site]:
    return [site for site in sites if fnmatch.fnmatchcase(site.name, pattern)]


def _in_order(first: Sequence[Site], then: Sequence[Site]) -> tuple[Site, ...]:
    """Each once, activations before weights."""
    return tuple(dict.fromkeys(sorted((*first, *then), key=lambda site: site.where == "weight")))
