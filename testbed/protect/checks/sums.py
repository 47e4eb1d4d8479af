"""The sums of tensors that checks are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from testbed.core.arrays import Float64s
from testbed.instrument.cut.flow import CannotCut
from testbed.protect.graph import GraphEditor

_LARGEST = 2**18


@dataclass(frozen=True)
class Vector:
    """Sums of a tensor per image, (batch, 1, size), of which checks are linear combinations."""

    name: str
    size: int


class Vectors:
    """The sums that one group of checks takes, each computed once. prefix: of the names of what is added.

    Sums are products with ones. ONNX Runtime's reductions take twice the time at batch 1, and round by where a row lies in
    memory: the same image would have other sums elsewhere in the batch. What a sum over fewer axes is there of is not
    summed again.
    """

    def __init__(self, graph: GraphEditor, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self._made: dict[tuple[str, str], Vector] = {}

    @property
    def all(self) -> list[Vector]:
        """All vectors, in the order in which they were made."""
        return list(self._made.values())

    def total(self, tensor: str) -> Vector:
        """The sum of all of an image's elements, or sums over fewer axes that are there anyway."""
        for kind in ("tokens", "last"):
            if (tensor, kind) in self._made:
                return self._made[tensor, kind]

        shape = self._shape(tensor)
        if len(shape) == 1:
            return self.over_tokens(tensor)

        def make(name: str) -> Vector:
            ones = self._ones(shape[-1], 1)
            summed = self.graph.add("MatMul", [self.tokens(tensor), ones], f"{name}.sum")
            return self._vector(summed, (*shape[:-2], 1, 1), name)

        return self._keep(tensor, "total", make)

    def over_tokens(self, tensor: str) -> Vector:
        """Sums over the axis before the last; of one vector for each image, that."""
        shape = self._shape(tensor)
        if len(shape) == 1:
            return self._keep(
                tensor, "tokens", lambda name: Vector(self._row(self._wide(tensor), shape, name), shape[0])
            )
        kept = (*shape[:-2], 1, shape[-1])
        return self._keep(tensor, "tokens", lambda name: self._vector(self.tokens(tensor), kept, name))

    def over_tokens_of(self, added: str, like: str, name: str) -> Vector:
        """Sums over the axis before the last of what a check added: a tensor of the file, but for axes of one number."""
        shape, summed = self._shape(like), added
        if self.graph.element(like) != TensorProto.FLOAT:
            summed = self.graph.add("Cast", [added], f"{name}.fp32", to=TensorProto.FLOAT)
        if len(shape) > 1:
            summed = self.graph.add("MatMul", [self._ones(1, shape[-2]), summed], f"{name}.sum_tokens")
        kept = (1, *shape[:-2], 1, shape[-1])
        return self._vector(summed, kept, f"{name}.tokens")

    def over_last(self, tensor: str) -> Vector:
        """Sums over the last axis."""
        kept = (*self._shape(tensor)[:-1], 1)
        return self._keep(tensor, "last", lambda name: self._vector(self.last(tensor), kept, name))

    def weighted(self, tensor: str, coefficients: Float64s) -> tuple[Vector, Float64s]:
        """The sums that a sum over all of an image's elements, each times its coefficient, is made of, and their coefficients.

        coefficients: of one image's shape. Where they are the same all along an axis, or repeat along the last but one (as
        the patches of an image do), that is summed first. Raises CannotCut for more sums than a check can take.
        """
        shape = coefficients.shape
        if len(shape) == 1 or (coefficients == coefficients[..., :1, :]).all():
            return self.over_tokens(tensor), (coefficients if len(shape) == 1 else coefficients[..., 0, :]).reshape(-1)
        if (coefficients == coefficients[..., :1]).all():
            return self.over_last(tensor), coefficients[..., 0].reshape(-1)
        period = _period(coefficients)
        if period < shape[-2]:
            folded = (*shape[:-2], shape[-2] // period, period * shape[-1])
            return self._folded(tensor, folded), coefficients.reshape(folded)[..., 0, :].reshape(-1)
        if coefficients.size > _LARGEST:
            raise CannotCut(f"its sum is of {coefficients.size:,} different terms")
        return self.product_of(self._wide(tensor), shape), coefficients.reshape(-1)

    def _folded(self, tensor: str, shape: tuple[int, ...]) -> Vector:
        """Sums over the last axis but one of the tensor in another shape."""

        def make(name: str) -> Vector:
            sizes = self.graph.constant(f"protect.shape.{'x'.join(map(str, shape))}", np.array([0, *shape], np.int64))
            laid = self.graph.add("Reshape", [self._wide(tensor), sizes], f"{name}.laid")
            summed = self.graph.add("MatMul", [self._ones(1, shape[-2]), laid], f"{name}.sum")
            return self._vector(summed, (*shape[:-2], 1, shape[-1]), name)

        return self._keep(tensor, f"folded_{shape[-2]}", make)

    def product_of(self, tensor: str, shape: tuple[int, ...]) -> Vector:
        """What was computed from sums, as a vector. shape: one image's."""
        return self._keep(tensor, "row", lambda name: self._vector(tensor, shape, name))

    def tokens(self, tensor: str) -> str:
        """Sums over the axis before the last: (batch, ..., 1, last)."""
        name = f"{self.prefix}.{self.graph.named(tensor)}.sum_tokens"
        if self.graph.has(name):
            return name
        return self.graph.add("MatMul", [self._ones(1, self._shape(tensor)[-2]), self._wide(tensor)], name)

    def last(self, tensor: str) -> str:
        """Sums over the last axis: (batch, ..., 1)."""
        name = f"{self.prefix}.{self.graph.named(tensor)}.sum_last"
        if self.graph.has(name):
            return name
        return self.graph.add("MatMul", [self._wide(tensor), self._ones(self._shape(tensor)[-1], 1)], name)

    def _vector(self, tensor: str, shape: tuple[int, ...], name: str) -> Vector:
        return Vector(self._row(tensor, shape, name), int(np.prod(shape)))

    def _row(self, tensor: str, shape: tuple[int, ...], name: str) -> str:
        """The tensor as (batch, 1, size)."""
        if len(shape) == 2 and shape[0] == 1:
            return tensor
        row = self.graph.constant("protect.row", np.array([0, 1, -1], np.int64))
        return self.graph.add("Reshape", [tensor, row], name)

    def _keep(self, tensor: str, kind: str, make: Callable[[str], Vector]) -> Vector:
        if (tensor, kind) not in self._made:
            self._made[tensor, kind] = make(f"{self.prefix}.{self.graph.named(tensor)}.{kind}")
        return self._made[tensor, kind]

    def _wide(self, tensor: str) -> str:
        return self.graph.wide(tensor, self.prefix)

    def _ones(self, rows: int, columns: int) -> str:
        return self.graph.constant(f"protect.ones.{rows}x{columns}", np.ones((rows, columns), np.float32))

    def _shape(self, tensor: str) -> tuple[int, ...]:
        return self.graph.flow.per_image(tensor)


def _period(coefficients: Float64s) -> int:
    """Number of rows (the last axis but one) after which all repeat; all of them where they do not."""
    rows = coefficients.shape[-2]
    for period in range(1, rows // 2 + 1):
        if rows % period == 0:
            parts = coefficients.reshape(*coefficients.shape[:-2], rows // period, period, -1)
            if (parts == parts[..., :1, :, :]).all():
                return period
    return rows
