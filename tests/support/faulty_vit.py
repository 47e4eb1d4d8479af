"""A ViT in plain PyTorch under the faults of a campaign's rows: no engine, no ONNX file, no code of campaigns or protection."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from testbed.models.vit import ViT, taps
from tests.support.onnx_operators import use_onnx_gelu, use_onnx_layer_norms

Correction = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""(a site's values, those of all sites before) -> what goes on in their place."""


@dataclass(frozen=True, eq=False)
class FaultyPass:
    """One image through the model. fault: the site that it went into; sites: site -> (1, ...), with the fault, before any
    correction; logits: (K,)."""

    fault: str | None
    image: Tensor
    sites: Mapping[str, Tensor]
    logits: np.ndarray


class FaultyViT:
    """``model`` is what faults go into, ``golden`` the same without any."""

    def __init__(self, model: ViT) -> None:
        torch.set_num_threads(1)
        self.model = copy.deepcopy(model).eval()
        use_onnx_layer_norms(self.model)
        use_onnx_gelu(self.model)
        self.golden = copy.deepcopy(self.model)
        self._values: dict[str, Tensor] = {}
        self._row: Any = None
        self._corrections: Mapping[str, Correction] = {}
        for tap in taps(self.model).values():
            tap.register_forward_hook(self._hook)

    def run(
        self, image: np.ndarray, row: Any = None, corrections: Mapping[str, Correction] | None = None
    ) -> FaultyPass:
        """One image, (1, C, S, S), under the fault of a row of results; None: without one."""
        self._values, self._row, self._corrections = {}, row, corrections or {}
        images = torch.from_numpy(image)
        with torch.inference_mode(), self._faulty_weight(row):
            logits = self.model(images)[0].numpy()
        return FaultyPass(None if row is None else str(row.site), images, self._values, logits)

    def _hook(self, tap: nn.Module, _: object, output: Tensor) -> Tensor:
        site, values = str(tap.site), output.clone(memory_format=torch.contiguous_format)
        if self._row is not None and self._row.where == "activation" and self._row.site == site:
            _inject(values, self._row)
        before, self._values[site] = dict(self._values), values
        return self._corrections[site](values, before) if site in self._corrections else values

    @contextmanager
    def _faulty_weight(self, row: Any) -> Iterator[None]:
        if row is None or row.where != "weight":
            yield
            return
        parameter = dict(self.model.named_parameters())[row.site].data
        before = parameter.clone()
        _inject(parameter, row)
        try:
            yield
        finally:
            parameter.copy_(before)


def _inject(values: Tensor, row: Any) -> None:
    """v' = ((v & and) | or) ^ xor, on Python's integers."""
    flat = values.view(-1)
    (word,) = struct.unpack("<I", struct.pack("<f", float(flat[int(row.index)])))
    word = ((word & int(row.and_mask)) | int(row.or_mask)) ^ int(row.xor_mask)
    flat[int(row.index)] = struct.unpack("<f", struct.pack("<I", word))[0]
