"""An attention module's stages as small engines, run for exactly the rows or columns that a fault can change.

Matrix kernels give a row's bits whatever other rows they are given, except that a single row often takes a kernel of its
own. So a stage is only run at sizes at which it was seen to reproduce golden rows (`proven`), padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import onnx

from testbed.campaign.evaluate.attention.golden import ImageGolden, OpenRunner
from testbed.core.arrays import Float32s
from testbed.core.closing import Closing
from testbed.core.errors import EngineError
from testbed.engines.runner import Runner
from testbed.semantics import as_words

Use = Literal["scores.rows", "scores.columns", "softmax.rows", "heads.rows", "heads.columns", "proj.rows"]
USES: tuple[Use, ...] = (
    "scores.rows",
    "scores.columns",
    "softmax.rows",
    "heads.rows",
    "heads.columns",
    "proj.rows",
)
Sizes = Mapping[str, Sequence[int]]
"""Use of a stage -> the numbers of rows or columns it may be run for, ascending."""


_DRAWS = 3  # of random rows, per image and head


def sizes_to_try(tokens: int) -> list[int]:
    """Powers of two up to the number of tokens, and that number: what is padded is at most as much as is not."""
    return [*(2**power for power in range(1, 16) if 2**power < tokens), tokens]


class _Stage(NamedTuple):
    runner: Runner
    inputs: tuple[str, ...]
    output: str


class StageEngines(Closing):
    """Raises EngineError where the engine refuses a stage. ``sizes``: empty for a use that is not to be relied on."""

    def __init__(
        self, models: Mapping[str, bytes], open_engine: OpenRunner, sizes: Sizes, turned: bool = False
    ) -> None:
        """Opens an engine per stage. turned: that of the scores takes keys (d, N)."""
        self.sizes: dict[str, list[int]] = {use: list(sizes.get(use, ())) for use in USES}
        self._stages = {name: _opened(model, open_engine) for name, model in models.items()}
        self._turned = turned

    def can(self, *uses: str) -> bool:
        return all(self.sizes[use] for use in uses)

    def score_rows(self, q: Float32s, keys: Float32s) -> Float32s:
        """Computes rows of the scores. q (n, d), keys (N, d) -> scores (n, N)."""
        operand = self._keys(keys)
        return self._rows("scores", q, lambda rows: (rows, operand))

    def score_columns(self, queries: Float32s, k: Float32s) -> Float32s:
        """Computes columns of the scores. queries (N, d), k (n, d) -> scores (N, n)."""
        columns = [
            self._run("scores", queries, self._keys(padded))[:, :count]
            for padded, count in _padded(k, self.sizes["scores.columns"])
        ]
        return np.concatenate(columns, axis=1)

    def softmax_rows(self, scores: Float32s) -> Float32s:
        """(n, N) -> (n, N)."""
        return self._rows("softmax", scores, lambda rows: (rows,))

    def head_rows(self, maps: Float32s, values: Float32s) -> Float32s:
        """Computes rows of a head's output. maps (n, N), values (N, d) -> one head's part of the context (n, d)."""
        return self._rows("heads", maps, lambda rows: (rows, values))

    def head_columns(self, maps: Float32s, v: Float32s) -> Float32s:
        """Computes columns of a head's output. maps (N, N), v (n, N), one column of values each -> columns of the
        head's part of the context (N, n)."""
        columns = []
        for padded, count in _padded(v, self.sizes["heads.columns"]):
            columns.append(self._run("heads", maps, np.ascontiguousarray(padded.T))[:, :count])
        return np.concatenate(columns, axis=1)

    def project(self, context: Float32s) -> Float32s:
        """(n, H d) -> (n, D)."""
        return self._rows("proj", context, lambda rows: (rows,))

    def close(self) -> None:
        for stage in self._stages.values():
            stage.runner.close()

    def _keys(self, keys: Float32s) -> Float32s:
        return np.ascontiguousarray(keys.T) if self._turned else keys

    def _rows(self, name: str, rows: Float32s, operands: Callable[[Float32s], tuple[Float32s, ...]]) -> Float32s:
        return np.concatenate(
            [self._run(name, *operands(padded))[:count] for padded, count in _padded(rows, self.sizes[f"{name}.rows"])]
        )

    def _run(self, name: str, *operands: Float32s) -> Float32s:
        stage = self._stages[name]
        led = (None,) if name == "proj" else (None, None)  # one image, and one head
        results = stage.runner.run({n: a[led] for n, a in zip(stage.inputs, operands, strict=True)})[stage.output]
        return results.reshape(results.shape[-2:])


def proven(
    models: Mapping[str, bytes],
    open_engine: OpenRunner,
    goldens: Sequence[ImageGolden],
    seed: int,
    turned: bool = False,
) -> Sizes:
    """The sizes at which each use of a stage gives the whole twin's bits for random rows of these images' goldens."""
    tokens = goldens[0]["context"].shape[0]
    sizes: dict[str, list[int]] = {use: [] for use in USES}
    for name, model in models.items():
        try:
            stages = StageEngines({name: model}, open_engine, {}, turned)
        except EngineError:
            continue
        with stages:
            for use in USES:
                if use.split(".")[0] == name:
                    tried = sizes_to_try(tokens)
                    sizes[use] = [size for size in tried if _reproduces(use, size, stages, goldens, seed)]
    return sizes


def _reproduces(use: Use, size: int, stages: StageEngines, goldens: Sequence[ImageGolden], seed: int) -> bool:
    rng = np.random.default_rng([seed, size])
    stages.sizes[use] = [size]
    try:
        return all(
            np.array_equal(as_words(given), as_words(wanted))
            for golden in [*goldens] * _DRAWS
            for given, wanted in _checks(use, size, stages, golden, rng)
        )
    except EngineError:
        return False


def _checks(
    use: Use, size: int, stages: StageEngines, golden: ImageGolden, rng: np.random.Generator
) -> Iterator[tuple[Float32s, Float32s]]:
    """(found, golden) of as many random rows or columns as ``size``, once per head."""
    heads, tokens, width = golden["q"].shape
    if use == "proj.rows":
        rows = rng.integers(tokens, size=size)
        yield stages.project(golden["context"][rows]), golden["proj"][rows]
        return
    for head in range(heads):
        rows = rng.integers(tokens, size=size)
        q, k, v, scores, maps = (golden[kind][head] for kind in ("q", "k", "v", "scores", "softmax"))
        part = golden["context"][:, head * width : (head + 1) * width]
        if use == "scores.rows":
            yield stages.score_rows(q[rows], k), scores[rows]
        elif use == "scores.columns":
            yield stages.score_columns(q, k[rows]), np.ascontiguousarray(scores[:, rows])
        elif use == "softmax.rows":
            yield stages.softmax_rows(scores[rows]), maps[rows]
        elif use == "heads.rows":
            yield stages.head_rows(maps[rows], v), np.ascontiguousarray(part[rows])
        else:
            columns = rng.integers(width, size=size)
            yield stages.head_columns(maps, v.T[columns]), np.ascontiguousarray(part[:, columns])


def _padded(rows: Float32s, sizes: Sequence[int]) -> Iterator[tuple[Float32s, int]]:
    """Pieces of one of the sizes, the last one padded with zeros, and how many of each are the caller's."""
    start = 0
    while start < len(rows):
        left = len(rows) - start
        size = next((size for size in sizes if size >= left), sizes[-1])
        chunk = rows[start : start + size]
        if len(chunk) < size:
            chunk = np.concatenate([chunk, np.zeros((size - len(chunk), rows.shape[1]), rows.dtype)])
        yield chunk, min(left, size)
        start += size


def _opened(model: bytes, open_engine: OpenRunner) -> _Stage:
    graph = onnx.load_from_string(model).graph
    return _Stage(open_engine(model), tuple(value.name for value in graph.input), graph.output[0].name)
