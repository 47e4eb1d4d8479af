"""From spec to instrumented engines' files: data, trained model, reference golden, tiers, plain ONNX, twins, site
tables."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from testbed.analysis.confidence import TierEdges, Tiers, first_of_each, tiers_from_logits
from testbed.campaign.images import Inputs, NamedImages
from testbed.campaign.spec import CampaignSpec
from testbed.campaign.subject import subject_of
from testbed.core.cache import cache_folder
from testbed.core.errors import GateFailed, StaleArtefact, TestbedError
from testbed.core.files import atomic_path, sha256_bytes, sha256_json, write_bytes, write_json
from testbed.core.runfolder import RunFolder, installed_version
from testbed.core.site import Site, SiteTable
from testbed.export.onnx import OPSET
from testbed.export.precision import Calibration
from testbed.export.target import export_target
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS, module_files, record_reference
from testbed.instrument.ports import instrument
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT, taps
from testbed.models.weights import load_model, save_model
from testbed.train import train

log = logging.getLogger(__name__)

MODEL = "model.safetensors"
TIERS = "tiers.json"
ATTENTION = "block.0.attn"


@dataclass(frozen=True)
class Files:
    """Files of one target in the run folder."""

    target: str

    @property
    def plain(self) -> str:
        return f"{self.target}.onnx"

    @property
    def twin(self) -> str:
        return f"{self.target}.twin.onnx"

    @property
    def sites(self) -> str:
        return f"{self.target}.sites.json"


class Preparation:
    """The stages before the first fault. Each is made once and reused while its inputs stay the same."""

    def __init__(self, spec: CampaignSpec, folder: RunFolder) -> None:
        self.spec, self.folder = spec, folder
        self.subject = subject_of(spec)
        self.dataset, self.config = self.subject.dataset, self.subject.config
        check_sites(self.config, spec)

    def run(self) -> None:
        """All stages up to the twins. Raises GateFailed when the model is not as good as the spec asks."""
        self._train()
        self._golden()
        self._tiers()
        for target in self.spec.targets:
            self._export(target)
            self._instrument(target)

    # ---- stages

    def _train(self) -> None:
        if self.subject.recipe is None:
            self._take_trained()
            return
        recipe = self.subject.recipe
        made_from = {
            "train": self.dataset.train.sha256(),
            "validation": self.dataset.validation.sha256(),
            "preprocess": self.dataset.preprocess.describe(),
            "config": self.config.to_dict(),
            "recipe": recipe.to_dict(),
            "seed": self.spec.seed,
            "torch": torch.__version__,
        }
        key = sha256_json(made_from)

        def build() -> dict[str, Any]:
            kept = cache_folder() / "models" / f"{key}.safetensors"
            if _reused(kept, self.folder / MODEL):
                log.info("model: reused, trained before from the same data, recipe and seed")
                return {"key": key}
            log.info("model: training %s on %s, %d epochs", self.spec.model.preset, self.dataset.name, recipe.epochs)
            trained = train(self.config, self.dataset, recipe, seed=self.spec.seed, threads=1)
            save_model(self.folder / MODEL, trained.model)
            _keep(self.folder / MODEL, kept)
            return {"key": key}

        self.folder.stage("train", made_from, [MODEL], build)

    def _take_trained(self) -> None:
        trained = self.subject.trained
        assert trained is not None

        def build() -> None:
            trained.folder.verify(trained.stage)
            log.info("model: the one in %s", trained.folder.path)
            write_bytes(self.folder / MODEL, (trained.folder / MODEL).read_bytes())

        self.folder.stage("train", {"model": trained.model_hash}, [MODEL], build)

    def _golden(self) -> None:
        inputs = {"model": self._hash("train", MODEL), "test": self.dataset.test.sha256(), "torch": torch.__version__}
        files = [LOGITS, *module_files(ATTENTION)]

        def build() -> dict[str, Any]:
            log.info("golden: logits and first attention of %d test images", len(self.dataset.test))
            torch.set_num_threads(self.spec.engine.threads)
            rows = range(len(self.dataset.test))
            record_reference(self.model, self.dataset.test, rows, self.folder.path, modules=[ATTENTION])
            predicted = read_array(self.folder / LOGITS).argmax(1)
            accuracy = float((predicted == self.dataset.test.labels).mean())
            return {"accuracy": accuracy, "images": len(rows)}

        facts = self.folder.stage("golden", inputs, files, build)
        if facts["accuracy"] < self.spec.gates.test_accuracy:
            raise GateFailed(
                f"test accuracy {facts['accuracy']:.4f} is below gates.test_accuracy {self.spec.gates.test_accuracy};"
                " train longer (model.training.epochs) or lower the gate"
            )

    def _tiers(self) -> None:
        tiers = self.spec.tiers
        inputs = {"logits": self._hash("golden", LOGITS), "edges": list(tiers.edges), "images": list(tiers.images)}

        def build() -> None:
            found = self.tiers
            chosen = first_of_each(found, tiers.images)
            write_json(self.folder / TIERS, _tiers_file(found, self.dataset.test.ids, chosen, self.dataset.test.labels))

        self.folder.stage("tiers", inputs, [TIERS], build)

    def _export(self, target: str) -> None:
        files, engine = Files(target), self.spec.engine
        versions = {name: installed_version(name) for name in ("torch", "onnx", "onnxscript")}
        inputs: dict[str, Any] = {"model": self._hash("train", MODEL), "opset": OPSET, "versions": versions}
        inputs["precision"] = engine.precision
        calibration = images = None
        if engine.precision == "int8":
            calibration = Calibration(engine.calibration_images, engine.calibration_method)
            images = self.dataset.train.batch(slice(0, engine.calibration_images))
            inputs["calibration"] = {**calibration.to_dict(), "train": self.dataset.train.sha256()}

        def build() -> None:
            log.info("export: %s -> %s (%s)", target, files.plain, engine.precision)
            path = self.folder / files.plain
            export_target(self.model, target, path, precision=engine.precision, images=images, calibration=calibration)

        self.folder.stage(f"export.{target}", inputs, [files.plain], build)

    def _instrument(self, target: str) -> None:
        files = Files(target)

        def build() -> None:
            plain = (self.folder / files.plain).read_bytes()
            table = site_table(plain, target, self.spec.engine.ports)
            write_bytes(self.folder / files.twin, instrument(plain, table).SerializeToString(deterministic=True))
            table.save(self.folder / files.sites)

        inputs = {"plain": self._hash(f"export.{target}", files.plain), "ports": self.spec.engine.ports}
        self.folder.stage(f"instrument.{target}", inputs, [files.twin, files.sites], build)

    def _hash(self, stage: str, file: str) -> str:
        return self.folder.output_hash(stage, file)

    # ---- what later stages read

    @cached_property
    def model(self) -> ViT:
        return load_model(self.folder / MODEL)

    @cached_property
    def tiers(self) -> Tiers:
        test = self.dataset.test
        return tiers_from_logits(
            read_array(self.folder / LOGITS), test.labels, TierEdges(self.spec.tiers.edges), test.ids
        )

    @cached_property
    def images(self) -> NamedImages:
        return named_images(self.folder / TIERS)

    @property
    def accuracy(self) -> float:
        return float(self.folder.manifest["stages"]["golden"]["facts"]["accuracy"])

    def table(self, target: str) -> SiteTable:
        return SiteTable.load(self.folder / Files(target).sites)

    def inputs(self, target: str) -> Inputs:
        """What the target is fed for rows of the named images."""
        positions = self.images.positions
        if target == "model":
            pixels = self.dataset.test.batch(positions)
            return lambda rows: pixels[rows]
        hidden = read_array(self.folder / module_files(ATTENTION)[0])
        return lambda rows: hidden[positions[rows]]

    def reference(self, target: str) -> np.ndarray:
        """Reference golden of the named images (n, ...)."""
        file = LOGITS if target == "model" else module_files(ATTENTION)[1]
        return read_array(self.folder / file)[self.images.positions]


def check_sites(config: ViTConfig, spec: CampaignSpec) -> None:
    """Raises UsageError for a site that the model will not have, before anything is trained for it.

    A quantised file has further sites (scales, zero points), which are known only once it is there.
    """
    if spec.engine.precision == "int8":
        return
    with torch.device("meta"):  # names only: no memory, no initialisation
        model = ViT(config)
    for (target, where), patterns in spec.legs.items():
        module = model if target == "model" else subnetwork(model, target)
        names = taps(module) if where == "activation" else dict(module.named_parameters())
        SiteTable(target, "", "", tuple(Site(name, where, ()) for name in names)).select(where, patterns)


def _tiers_file(tiers: Tiers, ids: Sequence[str], chosen: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    lows = (0.0, *tiers.edges.edges)
    return {
        "tiers": [
            {"low": lows[i], "high": lows[i + 1], "images": [ids[p] for p in positions]}
            for i, positions in enumerate(tiers.positions)
        ],
        "correct": len(tiers.correct),
        "incorrect": len(tiers.incorrect),
        "incorrect_images": [ids[p] for p in tiers.incorrect],
        "named": [
            {"id": ids[p], "position": int(p), "label": int(labels[p]), "tier": int(tiers.tier_of[p])} for p in chosen
        ],
    }


def named_images(path: Path) -> NamedImages:
    """The campaign's images, from its tiers file. Raises StaleArtefact for a damaged one."""
    try:
        named = json.loads(path.read_text())["named"]
        return NamedImages(
            tuple(image["id"] for image in named),
            np.array([image["label"] for image in named], np.int64),
            np.array([image["tier"] for image in named], np.int16),
            np.array([image["position"] for image in named], np.int64),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StaleArtefact(f"{path} is not a tiers file ({error}); rerun with --redo tiers") from error


def _reused(kept: Path, wanted: Path) -> bool:
    """Copies a cached model if there is a good one. The cache's content is checked by its recorded hash."""
    digest = kept.with_suffix(".sha256")
    try:
        content, recorded = kept.read_bytes(), digest.read_text()
    except OSError:
        return False
    if sha256_bytes(content) != recorded:
        return False
    write_bytes(wanted, content)
    return True


def _keep(made: Path, kept: Path) -> None:
    """Into the cache, if that can be written; the campaign does not need it."""
    try:
        with atomic_path(kept) as temporary:
            shutil.copyfile(made, temporary)
        write_bytes(kept.with_suffix(".sha256"), sha256_bytes(made.read_bytes()).encode())
    except (TestbedError, OSError) as error:
        log.info("model: not cached (%s)", error)
