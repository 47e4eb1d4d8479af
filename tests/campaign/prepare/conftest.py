"""A finished campaign on timm's ViT, as its own exporter writes it."""

from __future__ import annotations

import pytest
import torch

from tests.support.foreign_campaigns import Finished, run, spec_values, trained, written


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    model = trained()
    base = tmp_path_factory.mktemp("theirs")
    file = written(model, base / "vit.onnx")
    values = spec_values(file)
    return Finished(model, file, base / "run", run(values, base / "run"), values)
