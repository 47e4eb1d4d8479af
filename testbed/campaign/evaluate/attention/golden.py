"""Every intermediate tensor of an attention module without a fault, image by image, within a memory budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.graphs import KINDS, AttentionSites
from testbed.campaign.evaluate.contract import NotDeterministic
from testbed.campaign.folder.images import Inputs
from testbed.core.site import SiteTable
from testbed.engines.runner import Runner
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.prefix import with_live_outputs
from testbed.instrument.shapes import inputs_of
from testbed.semantics import as_words

Note = TypeVar("Note")
OpenRunner = Callable[[bytes], Runner]
"""An engine of the campaign's kind and settings, for an ONNX file of one's own."""


@dataclass(frozen=True)
class AttentionTarget:
    """The attention module that is evaluated. ``inputs``, ``batch``: as the whole twin is fed in this campaign."""

    plain: bytes
    twin: bytes
    table: SiteTable
    sites: AttentionSites
    open: OpenRunner
    inputs: Inputs
    batch: int

    @property
    def input_name(self) -> str:
        return str(inputs_of(onnx.load_from_string(self.plain))[0].name)


@dataclass
class ImageGolden:
    """One image's tensors, as `AttentionSites.shape` has them. ``notes``: what others worked out from them, kept as long."""

    image: int
    tensors: dict[str, NDArray[np.float32]]
    notes: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> NDArray[np.float32]:
        return self.tensors[kind]

    def noted(self, name: str, made: Callable[[], Note]) -> Note:
        """What was worked out before under this name, or now."""
        if name not in self.notes:
            self.notes[name] = made()
        note: Note = self.notes[name]
        return note


class AttentionGoldens:
    """Runs the whole twin, with its tensors as extra outputs, for images that are asked for and not kept.

    Keeps those last asked for, up to ``budget`` bytes. Every run is compared with the golden output, bit for bit.
    """

    def __init__(self, target: AttentionTarget, golden: NDArray[np.float32], budget: int) -> None:
        self.target, self.golden = target, golden
        site = target.sites.site
        elements = sum(own.elements for own in site.values()) + target.sites.heads * site["proj"].elements  # and notes
        self.most = max(1, budget // (4 * elements))
        self._kept: OrderedDict[int, ImageGolden] = OrderedDict()
        self._input_name = target.input_name
        self._runner: Runner | None = None
        self.runs = 0

    def load(self, images: Sequence[int]) -> dict[int, ImageGolden]:
        """Holds the golden tensors of these images, computing those that are not kept. images: at most ``most`` rows of
        the named images. Raises EngineError, NotDeterministic."""
        missing = [image for image in images if image not in self._kept]
        for image in images:
            if image in self._kept:
                self._kept.move_to_end(image)
        for start in range(0, len(missing), self.target.batch):
            self._make_room(len(missing[start : start + self.target.batch]))
            self._kept |= self._run(missing[start : start + self.target.batch])
        return {image: self._kept[image] for image in images}

    def _make_room(self, images: int) -> None:
        """Evicts the least recently used images."""
        while self._kept and len(self._kept) + images > self.most:
            self._kept.popitem(last=False)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._runner = None
        self._kept.clear()

    def _run(self, images: list[int]) -> dict[int, ImageGolden]:
        target = self.target
        if self._runner is None:
            self._runner = target.open(with_live_outputs(target.twin, target.sites.site.values()))
        rows = np.array(images + images[:1] * (target.batch - len(images)), np.int64)  # the batch the golden was run in
        idle = PortFeed.idle(target.batch).as_inputs(target.table)
        outputs = self._runner.run({self._input_name: target.inputs(rows), **idle})
        self.runs += 1
        goldens = {}
        for position, image in enumerate(images):
            tensors = {
                kind: target.sites.turn(kind, outputs[f"{target.sites.site[kind].tensor}/live"][position].copy())
                for kind in KINDS
            }
            if not np.array_equal(as_words(tensors["proj"]), as_words(self.golden[image])):
                raise NotDeterministic(
                    f"image row {image}: the twin with its inner tensors as outputs does not give its golden output"
                )
            tensors["proj"] = self.golden[image]
            goldens[image] = ImageGolden(image, tensors)
        return goldens
