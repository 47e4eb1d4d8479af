"""A Vision Transformer in PyTorch, for tools: what engines are made from, and held against."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import onnx
import torch
from torch import nn

from testbed.export.precision import cast_model
from testbed.export.target import export_target
from testbed.models.config import ViTConfig
from testbed.models.importers import import_weights
from testbed.models.presets import PRESETS, preset
from testbed.models.runs import DataSource, open_model_run, write_model_run
from testbed.models.subnetwork import part_named, subnetwork
from testbed.models.vit import ViT, taps


@dataclass(frozen=True, eq=False)
class ReferenceModel:
    """A model in PyTorch, on the CPU, in evaluation mode. `random`, `of_weights` and `of_run` make one.

    Attributes:
        module: The model: (n, C, S, S) images to (n, K) logits.
        name: Of the preset, the weights or the run.
        layout: Whose names the weights had: "testbed", "timm", ...
    """

    module: ViT
    name: str
    layout: str = "testbed"

    @classmethod
    def random(cls, name: str, seed: int = 0, **changes: Any) -> Self:
        """Make a preset with seeded random weights. changes: of the preset, such as `init="trunc"`, `depth=6`.

        Raises:
            UsageError: For an unknown preset or key.
        """
        torch.manual_seed(seed)
        return cls(ViT(preset(name, **changes)).eval(), name)

    @classmethod
    def of_weights(cls, file: Path) -> Self:
        """Read trained weights, as `testbed import` does."""
        imported = import_weights(file)
        return cls(imported.model, file.stem, imported.layout)

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """Open the model in a run folder."""
        run = open_model_run(folder)
        return cls(run.model, str(run.folder.manifest["name"]))

    @staticmethod
    def presets() -> list[str]:
        """Names of the presets."""
        return list(PRESETS)

    @property
    def config(self) -> ViTConfig:
        """Sizes and features: depth, heads, mlp, width, head_width, tokens, classes, channels, image, ..."""
        return self.module.config

    def part(self, target: str) -> nn.Module:
        """Cut out "attention", "attention:N" or "block:N" as a module of its own: (n, N, D) to (n, N, D)."""
        return subnetwork(self.module, target)

    def block_of(self, target: str) -> int:
        """Number of the block that a target is in."""
        return part_named(self.module, target).block

    @staticmethod
    def taps(module: nn.Module) -> Mapping[str, nn.Module]:
        """Name of each activation site -> the module whose output it is, in a model's module or a changed copy of it."""
        return taps(module)

    def onnx(self, target: str = "model", precision: str = "fp32") -> bytes:
        """Export a target as it would be deployed, in "fp32", "fp16" or "bf16"."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plain.onnx"
            export_target(self.module, target, file)
            content = file.read_bytes()
        if precision == "fp32":
            return content
        cast: bytes = cast_model(onnx.load_from_string(content), precision).SerializeToString(deterministic=True)
        return cast

    def write_run(
        self,
        folder: Path,
        data: str,
        *,
        preprocess: str | None = None,
        made_from: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write it as a run folder, which campaigns and `testbed.Model` take. data: the data set that it is for."""
        source = DataSource(data, preprocess=preprocess)
        write_model_run(folder, self.module, stage="import", name=self.name, made_from=made_from or {}, data=source)
        return folder
