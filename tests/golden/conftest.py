"""Run folders to record goldens in: a digits model with seeded random weights, sharp enough to fill every tier."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.analysis.outputs.compare import Tolerance
from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.golden.recording import record_golden
from testbed.golden.reference import LOGITS, module_files, record_reference
from testbed.golden.verify import verify_golden
from testbed.models.presets import preset
from testbed.models.runs import MODEL, DataSource, write_model_run
from testbed.models.vit import ViT
from testbed.models.weights import save_model


def sharp_model(seed: int = 0, **changes: object) -> ViT:
    """A tenth of the images are right by chance; centred and scaled logits spread their margins over (0, 1]."""
    torch.manual_seed(seed)
    model = ViT(preset("digits", **changes)).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(load("digits").test.batch(slice(0, 100))))
        scale = 1.5 / logits.std(0).mean()
        model.head.weight *= scale
        model.head.bias.copy_((model.head.bias - logits.mean(0)) * scale)
    return model


@pytest.fixture
def model_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model's run folder; returns its path."""

    def write(name: str = "run", model: ViT | None = None, data: DataSource | None = DataSource("digits")) -> Path:  # noqa: B008
        chosen = model or sharp_model()
        write_model_run(tmp_path / name, chosen, stage="import", name="some.pth", made_from={"file": name}, data=data)
        return tmp_path / name

    return write


@pytest.fixture
def by_class(tmp_path: Path) -> DataSource:
    """The digits' test images, sorted by class: as a folder of class folders is read."""
    test = load("digits").test
    order = np.argsort(test.labels, kind="stable")
    images = np.stack([test.pixels(row) for row in order])
    np.savez(tmp_path / "sorted.npz", images=images, labels=test.labels[order])
    return DataSource(f"npz:{tmp_path / 'sorted.npz'}", preprocess="digits")


@pytest.fixture(scope="session")
def _recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run"
    write_model_run(path, sharp_model(), stage="import", name="x", made_from={}, data=DataSource("digits"))
    record_golden(path)
    for target in ("attention", "model"):  # exports them, which takes seconds
        verify_golden(path, target, "torch", Tolerance())
    return path


@pytest.fixture
def recorded(_recorded_once: Path, tmp_path: Path) -> Path:
    """A run folder with the golden of all 719 images and both targets exported."""
    return Path(shutil.copytree(_recorded_once, tmp_path / "recorded"))


@pytest.fixture
def campaign_run(tmp_path: Path) -> Path:
    """A folder as a campaign leaves it after its golden: kind, spec and stages are the campaign's."""
    path, test = tmp_path / "campaign", load("digits", seed=5).test
    spec = {"data": {"name": "digits", "root": None, "preprocess": None}, "seed": 5}
    folder = RunFolder.claimed(path, "campaign", "digits", spec, [])
    model = sharp_model()
    with folder.locked():
        folder.save()
        folder.stage("train", {}, [MODEL], lambda: save_model(path / MODEL, model))
        inputs = {"model": folder.output_hash("train", MODEL), "test": test.sha256(), "torch": torch.__version__}

        def golden() -> dict[str, object]:
            record_reference(model, test, range(len(test)), path, modules=["block.0.attn"])
            return {"accuracy": 0.1, "images": len(test)}

        folder.stage("golden", inputs, [LOGITS, *module_files("block.0.attn")], golden)
    return path
