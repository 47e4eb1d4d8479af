"""What the model holds without a fault, where suffixes start: kept per image up to a budget, else computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.suffix.segments import Segment
from testbed.campaign.folder.images import Inputs
from testbed.engines.batches import pad_rows


class SuffixGoldens:
    """Tensors of ``names`` for the images that were asked for last. ``capacity``: images that fit into the budget."""

    def __init__(
        self,
        tapped: Callable[[], Segment],
        names: Sequence[str],
        output: str,
        bytes_per_image: int,
        inputs: Inputs,
        images: int,
        batch: int,
        budget_bytes: int,
    ) -> None:
        self._tapped, self._names, self._output, self._inputs = tapped, list(names), output, inputs
        self._batch = batch
        self._segment: Segment | None = None
        self.capacity = int(np.clip(budget_bytes // max(1, bytes_per_image), batch, max(batch, images)))
        self._slot = np.full(images, -1, np.int64)
        self._image = np.full(self.capacity, -1, np.int64)
        self._used = np.zeros(self.capacity, np.int64)
        self._now = 0
        self._arrays: dict[str, NDArray] = {}
        self._outputs: NDArray | None = None

    def __getitem__(self, name: str) -> NDArray:
        """(capacity, ...) values, by slot."""
        return self._arrays[name]

    def slots(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) where these images' values are, at most ``capacity`` different ones: computed where they are not."""
        wanted = np.unique(images)
        self._now += 1
        held = wanted[self._slot[wanted] >= 0]
        self._used[self._slot[held]] = self._now
        missing = wanted[self._slot[wanted] < 0]
        for start in range(0, len(missing), self._batch):
            self._compute(missing[start : start + self._batch])
        return self._slot[images]

    def groups(self, images: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Rows of ``images``, grouped so that each group's images fit; those that are there already come first."""
        wanted = np.unique(images)
        wanted = wanted[np.argsort(self._slot[wanted] < 0, kind="stable")]
        for start in range(0, len(wanted), self.capacity):
            yield np.flatnonzero(np.isin(images, wanted[start : start + self.capacity]))

    def outputs(self, images: NDArray[np.int64]) -> NDArray:
        """(n, ...) the model's own, as they came along."""
        self.slots(images)
        assert self._outputs is not None
        return self._outputs[images]

    def close(self) -> None:
        if self._segment is not None:
            self._segment.runner.close()
            self._segment = None

    def _compute(self, images: NDArray[np.int64]) -> None:
        self._segment = self._segment or self._tapped()
        outputs = self._segment({self._segment.inputs[0]: self._inputs(pad_rows(images, self._batch))})
        own = outputs[self._output]
        if self._outputs is None:
            self._outputs = np.zeros((len(self._slot), *own.shape[1:]), own.dtype)
        self._outputs[images] = own[: len(images)]
        slots = np.argsort(self._used, kind="stable")[: len(images)]
        self._used[slots] = self._now
        old = self._image[slots]
        self._slot[old[old >= 0]] = -1
        self._image[slots], self._slot[images] = images, slots
        for name in self._names:
            if name not in self._arrays:
                self._arrays[name] = np.empty((self.capacity, *outputs[name].shape[1:]), outputs[name].dtype)
            self._arrays[name][slots] = outputs[name][: len(images)]
        if (self._slot >= 0).all():
            self.close()  # nothing is left to be computed
