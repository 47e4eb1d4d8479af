"""Which tensor and which weight gets which human name, and why some names have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from testbed.instrument.sites.layers import Linear, Norm
from testbed.instrument.sites.pattern_graph import Graph, Weight
from testbed.instrument.sites.patterns.site_shapes import SiteShapes


@dataclass
class Names:
    """Names of what a graph holds. tensors: tensor -> name. weights: initializer -> name and whether it is stored
    transposed.

    ``missing``: name -> why there is no such tensor. ``shared``: initializer -> names it would have.
    """

    tensors: dict[str, str] = field(default_factory=dict)
    weights: dict[str, tuple[str, bool]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    shared: dict[str, list[str]] = field(default_factory=dict)


class Namer:
    """Collects names; a tensor keeps the first one it is given."""

    def __init__(self, graph: Graph, shapes: SiteShapes) -> None:
        self._graph, self._shapes = graph, shapes
        self._names = Names()
        self._claims: dict[str, list[tuple[str, bool]]] = {}
        self._norms: set[str] = set()

    def add_name(self, name: str, tensors: Sequence[str]) -> None:
        """The first of ``tensors``, which hold the same numbers, that the batch leads."""
        batch_led = self._shapes.first(tensors)
        hidden = next((self._graph.inside[tensor] for tensor in tensors if tensor in self._graph.inside), None)
        if batch_led is not None:
            self._names.tensors.setdefault(batch_led, name)
        elif hidden is not None:
            self.is_inside(name, hidden)
        else:
            self._names.missing[name] = "its leading dimension is not the batch"

    def is_inside(self, name: str, operator: str) -> None:
        self._names.missing[name] = f"inside the operator {operator}"

    def lacks(self, name: str, why: str) -> None:
        self._names.missing[name] = why

    def lack(self, *names: str) -> None:
        """Tells of these which were not given."""
        for name in {*names} - {*self._names.tensors.values()} - self._names.missing.keys():
            self.lacks(name, "not recognised")

    def name_norm(self, name: str, norm: Norm) -> None:
        self.add_name(name, [norm.output])
        self.norm_weights(name, norm)

    def norm_weights(self, name: str, norm: Norm) -> None:
        self._norms.add(norm.output)
        self.claim(f"{name}.weight", norm.weight)
        self.claim(f"{name}.bias", norm.bias)

    def linear_weights(self, name: str, linear: Linear) -> None:
        self.claim(f"{name}.weight", linear.weight)
        self.claim(f"{name}.bias", linear.bias)

    def claim(self, name: str, weight: Weight | None) -> None:
        if weight is not None:
            self._claims.setdefault(weight.tensor, []).append((name, weight.turned))

    def name_of(self, tensor: str) -> str:
        """The name that the tensor was given; "" where it has none."""
        return self._names.tensors.get(tensor, "")

    def has(self, norm: Norm) -> bool:
        return norm.output in self._norms

    def settled(self) -> Names:
        """An initializer with several uses has no name of its own: a fault in it strikes at each of them.

        Nor has one of several tensors, or weights, that would have the same name.
        """
        names = self._names
        for name in _repeated(names.tensors.values()):
            names.tensors = {tensor: own for tensor, own in names.tensors.items() if own != name}
            self.lacks(name, "several tensors would have this name")
        for tensor, claims in self._claims.items():
            if len(claims) > 1 or len(self._graph.uses(tensor)) > 1:
                names.shared[tensor] = [name for name, _ in claims]
            else:
                names.weights[tensor] = claims[0]
        for name in _repeated(name for name, _ in names.weights.values()):
            names.weights = {tensor: own for tensor, own in names.weights.items() if own[0] != name}
            self.lacks(name, "several weights would have this name")
        return names


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
