"""The work that a fault leaves: multiply-accumulates (MACs) that its change can reach, of those of the whole model.

Counted as the campaign engine may do it: of the struck block only the rows of tokens that differ, of the next one keys and
values of those tokens and whatever follows, later blocks whole, and of the last one what the class token reads, where that
is all that the head looks at. Nothing is known of values: a fault
whose change dies out on the way leaves less than is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults import Layer, NeuronFaults, WeightFaults
from testbed.testing import ViTConfig


@dataclass(frozen=True)
class Work:
    """MACs of one image."""

    config: ViTConfig

    @property
    def reads_one_token(self) -> bool:
        return self.config.pooling == "cls"

    def block(self, number: int, changed: int | None = None, rows: int | None = None) -> int:
        """Of a block where ``changed`` tokens of its input differ and ``rows`` of its output are read; all, if None."""
        c, n, inner = self.config, self.config.tokens, self._inner(number)
        differ, read = n if changed is None else changed, n if rows is None else rows
        keys_values = differ * c.width * 2 * inner
        queries = min(differ, read) * c.width * inner
        scores = (
            differ * read + (n - differ) * min(differ, read)
        ) * inner  # columns of changed keys, rows of changed queries
        return keys_values + queries + scores + read * (n * inner + inner * c.width + self._mlp(number))

    @property
    def head(self) -> int:
        return self.config.width * self.config.classes

    @property
    def total(self) -> int:
        c = self.config
        embedding = c.grid**2 * c.patch**2 * c.channels * c.width
        return embedding + sum(self.block(number) for number in range(c.depth)) + self.head

    def after(self, number: int, changed: int | None) -> int:
        """Of everything behind a block of whose output ``changed`` tokens differ; all, if None."""
        left, last = self.head, self.config.depth - 1
        for later in range(number + 1, last + 1):
            left += self.block(later, changed, 1 if later == last and self.reads_one_token else None)
            changed = None
        return left

    def left(self, layer: Layer, token: int, feature: int) -> int:
        """By a change of one element of a linear layer's output; 0 where it cannot reach the model's output."""
        part = layer.name
        if part == "attn.qkv":
            part = "qkv"[feature // (layer.outputs // 3)]
        only_class_token = self.reads_one_token and layer.block == self.config.depth - 1
        if only_class_token and token != 0 and part not in "kv":
            return 0
        rows = 1 if only_class_token else self.config.tokens
        return self._within(layer.block, part, rows) + self.after(layer.block, None if part in "kv" else 1)

    def left_by_weight(self, layer: Layer, feature: int) -> int:
        """By a change of one weight of a linear layer: its column of outputs, ``feature``, for every token that is read."""
        part, number = layer.name, layer.block
        if part == "attn.qkv":
            part = "qkv"[feature // (layer.outputs // 3)]
        only_class_token = self.reads_one_token and number == self.config.depth - 1
        n, rows = self.config.tokens, 1 if only_class_token else self.config.tokens
        column = (n if part in "kv" else rows) * layer.inputs
        return column + self._behind_column(number, part, rows) + self.after(number, None)

    def _behind_column(self, number: int, part: str, rows: int) -> int:
        """Of the struck block, once one feature of a layer differs in all tokens; ``rows`` of its output are read."""
        n, d, width, inner = self.config.tokens, self.config.head_width, self.config.width, self._inner(number)
        rest = rows * (inner * width + self._mlp(number))
        return {
            "q": 2 * rows * n * d + rest,
            "k": 2 * rows * n * d + rest,
            "v": rows * n * d + rest,
            "attn.proj": rows * self._mlp(number),
            "mlp.fc1": rows * self.config.mlp[number] * width,
            "mlp.fc2": 0,
        }[part]

    def _within(self, number: int, part: str, rows: int) -> int:
        """Of the rest of the struck block; ``rows`` of its output are read."""
        n, d, width, inner = self.config.tokens, self.config.head_width, self.config.width, self._inner(number)
        row = inner * width + self._mlp(number)  # one token's projection and MLP
        return {
            "q": 2 * n * d + row,
            "k": rows * (d + n * d + row),
            "v": rows * (n + row),
            "attn.proj": self._mlp(number),
            "mlp.fc1": self.config.mlp[number] * width,
            "mlp.fc2": 0,
        }[part]

    def _inner(self, number: int) -> int:
        return self.config.heads[number] * self.config.head_width

    def _mlp(self, number: int) -> int:
        return 2 * self.config.width * self.config.mlp[number]


def shares_left(config: ViTConfig, layers: Sequence[Layer], faults: NeuronFaults) -> NDArray[np.float64]:
    """(n,) of the whole model's MACs, per fault."""
    work = Work(config)
    elements = zip(faults.layer, faults.token, faults.feature, strict=True)
    return (
        np.array([work.left(layers[layer], int(token), int(feature)) for layer, token, feature in elements])
        / work.total
    )


def weight_shares_left(config: ViTConfig, layers: Sequence[Layer], faults: WeightFaults) -> NDArray[np.float64]:
    """(n,) of the whole model's MACs, per fault and image. A weight's row is the feature of its layer's output."""
    work = Work(config)
    left = [work.left_by_weight(layers[layer], int(row)) for layer, row in zip(faults.layer, faults.row, strict=True)]
    return np.array(left) / work.total
