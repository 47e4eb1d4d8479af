"""Exact outputs of faults inside an attention module, from the struck tensor on, at the module's own shapes.

For engines whose kernels do not give a row's bits at other sizes, and for kinds of attention without simple stages.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from testbed.campaign.evaluate.attention.golden import AttentionTarget, ImageGolden
from testbed.campaign.evaluate.attention.graphs import suffix
from testbed.campaign.evaluate.attention.rows import FaultyElements
from testbed.core.arrays import Float32s
from testbed.engines.batches import pad_rows
from testbed.engines.runner import Runner
from testbed.semantics import as_words


class SuffixPath:
    def __init__(self, target: AttentionTarget) -> None:
        self.target = target
        self._runners: dict[str, tuple[Runner, list[str]]] = {}
        self._kind_of = {site.tensor: kind for kind, site in target.sites.site.items()}
        self._input_name = target.input_name

    def outputs(self, faulty: FaultyElements, goldens: Mapping[int, ImageGolden]) -> Float32s:
        """(n, N, D). Raises EngineError."""
        runner, inputs = self._opened(faulty.kind)
        batch, output = self.target.batch, self.target.sites.site["proj"].tensor
        parts = []
        for start in range(0, len(faulty), batch):
            part = faulty.take(np.arange(start, min(start + batch, len(faulty))))
            images = pad_rows(part.image, batch, int(part.image[0])).tolist()
            feeds = {name: self._golden(name, images, goldens) for name in inputs}
            flat = as_words(feeds[self.target.sites.site[faulty.kind].tensor].reshape(batch, -1))
            flat[np.arange(len(part)), self.target.sites.stored_index(faulty.kind, part.index)] = part.words
            parts.append(runner.run(feeds)[output][: len(part)])
        return np.concatenate(parts)

    def close(self) -> None:
        for runner, _ in self._runners.values():
            runner.close()
        self._runners.clear()

    def _golden(self, name: str, images: list[int], goldens: Mapping[int, ImageGolden]) -> Float32s:
        if name == self._input_name:
            return self.target.inputs(np.array(images, np.int64))
        kind = self._kind_of[name]
        return np.stack([self.target.sites.turn(kind, goldens[image][kind]) for image in images])

    def _opened(self, kind: str) -> tuple[Runner, list[str]]:
        if kind not in self._runners:
            model = suffix(self.target.plain, self.target.sites, kind)
            inputs = [value.name for value in onnx.load_from_string(model).graph.input]
            self._runners[kind] = self.target.open(model), inputs
        return self._runners[kind]
