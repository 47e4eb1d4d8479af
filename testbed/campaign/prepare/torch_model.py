"""A model of the testbed: trained on first use or before, exported by target, its reference golden PyTorch's."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from testbed.campaign.described import DescribedModel
from testbed.campaign.facts import GoldenFacts, TrainFacts
from testbed.campaign.plan.sections import check_sections
from testbed.campaign.prepare.module_golden import shared_golden
from testbed.campaign.prepare.subject import KnownModel, Sketch, cached_logits, check_accuracy, dataset_of
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import UsageError
from testbed.core.folder.cache import MODELS, Cached
from testbed.core.folder.files import sha256_json, write_bytes
from testbed.core.folder.places import data_name
from testbed.core.folder.provenance import installed_version
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import Site, SiteTable, Where
from testbed.data import Dataset
from testbed.data.classes.order import ONLY_SOME
from testbed.data.classes.order_check import warn_of_order
from testbed.engines.weights import weights_beside
from testbed.export.calibration import calibration_split
from testbed.export.onnx import OPSET
from testbed.export.precision import Calibration
from testbed.export.target import export_target, exported_files, is_apart, target_inputs
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS, record_reference
from testbed.golden.shared import array_name
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.presets import preset
from testbed.models.runs import MODEL, DataSource, ModelRun, open_model_run
from testbed.models.subnetwork import part_of, subnetwork
from testbed.models.vit import ViT, taps
from testbed.models.weights import load_model, save_model
from testbed.train import Recipe, recipe, train

log = logging.getLogger(__name__)

_FEWER_IMAGES = "free some space, or take fewer test images ([data] images = N)"


@dataclass(frozen=True)
class TorchSubject:
    """``recipe`` trains a preset on first use; it is None for a model that is trained already (``trained``)."""

    spec: CampaignSpec
    dataset: Dataset
    config: ViTConfig
    recipe: Recipe | None
    trained: ModelRun | None

    @classmethod
    def of(cls, spec: CampaignSpec) -> TorchSubject:
        if spec.model.run is None:
            assert spec.model.preset is not None
            assert spec.model.recipe is not None
            config = preset(spec.model.preset, **spec.model.overrides)
            chosen = recipe(spec.model.recipe, **spec.model.recipe_changes)
            subject = cls(spec, dataset_of(spec, None, None), config, chosen, None)
        else:
            trained = open_model_run(Path(spec.model.run))
            config = trained.model.config
            subject = cls(spec, dataset_of(spec, trained.data, config.image), config, None, trained)
        _check_fit(subject.config, subject.dataset)
        for target in spec.targets:
            if target != "model":
                part_of(config, spec.part_of(target))
        config.check_memory(spec.engine.sketched_batch)
        return subject

    @property
    def raises_alarms(self) -> bool:
        return False

    @property
    def data_source(self) -> DataSource | None:
        return self.trained.data if self.trained and self.spec.named_data is None else None

    @property
    def _root(self) -> str | None:
        """Where data sets lie."""
        asked = self.spec.named_data or self.data_source
        return asked.root if asked else None

    def known(self) -> KnownModel:
        """What is known of the model of that folder, or of one that was trained before."""
        if self.recipe is None:
            assert self.trained is not None
            model_hash: str | None = self.trained.model_hash
        else:
            model_hash = self._kept(self.recipe).digest()
        if model_hash is None:
            assert self.recipe is not None
            return KnownModel(training_epochs=self.recipe.epochs)
        return KnownModel(logits=cached_logits(shared_golden(self.spec, model_hash, self.dataset.test)))

    def check_sites(self) -> None:
        """A quantised file has further sites (scales, zero points), which are known only once it is there."""
        if self.spec.engine.precision == "int8":
            return
        with torch.device("meta"):  # names only: no memory, no initialisation
            model = ViT(self.config)
        tables: dict[str, SiteTable] = {}
        for target in self.spec.targets:
            module = model if target == "model" else subnetwork(model, self.spec.part_of(target))
            places: dict[Where, Iterable[str]] = {"activation": taps(module), "weight": dict(module.named_parameters())}
            sites = tuple(Site(name, where, ()) for where, names in places.items() for name in names)
            tables[target] = SiteTable(target, "", "", sites)
        check_sections(self.spec.faults, tables)

    def shapes(self, target: str) -> dict[tuple[str, Where], tuple[int, ...]]:
        """(site, place) -> canonical shape, activations in the order of the forward pass: all sites but what quantisation
        adds. Costs no memory: the model's tensors have no content."""
        shapes: dict[tuple[str, Where], tuple[int, ...]] = {}
        with torch.device("meta"), torch.inference_mode():
            model = ViT(self.config).eval()
            module = model if target == "model" else subnetwork(model, self.spec.part_of(target))
            for name in taps(module):

                def note(_: torch.nn.Module, __: object, output: torch.Tensor, name: str = name) -> None:
                    shapes[name, "activation"] = tuple(output.shape[1:])

                taps(model)[name].register_forward_hook(note)
            model(torch.zeros(1, self.config.channels, self.config.image, self.config.image))
        return shapes | {(name, "weight"): tuple(p.shape) for name, p in module.named_parameters()}

    def sketch(self, target: str) -> Sketch:
        """Sketches an untrained model, the same one each time; the caller's random numbers stay what they were."""
        config, engine = self.config, self.spec.engine
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(0)
            model = ViT(config).eval()
        images = np.zeros((engine.sketched_batch, config.channels, config.image, config.image), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plain.onnx"
            calibration, part = Calibration(len(images)), self.spec.part_of(target)
            export_target(model, part, file, precision=engine.precision, images=images, calibration=calibration)
            plain = file.read_bytes()  # weights beside it stay mapped when the file is gone
            return Sketch(plain, target_inputs(model, part, images), weights_beside(plain, file.parent))

    def site_table(self, plain: bytes, target: str) -> SiteTable:
        return site_table(plain, target, self.spec.engine.ports)

    def make_golden(self, folder: RunFolder, watch: Watch = unwatched, reuse: Reuse = NO_REUSE) -> None:
        if self.recipe is None:
            self._take_trained(folder)
        else:
            self._train(folder, self.recipe, watch)
        self._record_golden(folder, watch)

    def _made_from(self, chosen: Recipe) -> dict[str, Any]:
        """What decides the weights of a model that is trained here, as JSON."""
        return {
            "train": self.dataset.train.sha256(),
            "validation": self.dataset.validation.sha256(),
            "preprocess": self.dataset.preprocess.describe(),
            "config": self.config.to_json(),
            "recipe": chosen.to_json(),
            "seed": self.spec.training_seed,
            "torch": torch.__version__,
        }

    def _kept(self, chosen: Recipe) -> Cached:
        return Cached(MODELS, sha256_json(self._made_from(chosen)), ".safetensors")

    def _train(self, folder: RunFolder, chosen: Recipe, watch: Watch) -> None:
        kept = self._kept(chosen)

        def build() -> TrainFacts:
            if kept.taken(folder / MODEL) is not None:
                log.info("model: reused, trained before from the same data, recipe and seed")
                return TrainFacts(key=kept.key)
            log.info("model: training %s on %s, %d epochs", self.spec.model.preset, self.dataset.name, chosen.epochs)
            with watch("train", chosen.epochs, "epochs") as advance:
                trained = train(
                    self.config,
                    self.dataset,
                    chosen,
                    seed=self.spec.training_seed,
                    threads=1,
                    callbacks=[lambda *epoch: advance(1)],
                    progress=watch is unwatched,  # else there are two bars
                )
            save_model(folder / MODEL, trained.model)
            kept.keep(folder / MODEL)
            return TrainFacts(key=kept.key)

        folder.stage("train", self._made_from(chosen), [MODEL], build)

    def _take_trained(self, folder: RunFolder) -> None:
        trained = self.trained
        assert trained is not None

        def build() -> None:
            trained.folder.verify(trained.stage)
            log.info("model: the one in %s", trained.folder.path)
            write_bytes(folder / MODEL, (trained.folder / MODEL).read_bytes())

        folder.stage("train", {"model": trained.model_hash}, [MODEL], build)

    def _record_golden(self, folder: RunFolder, watch: Watch) -> None:
        """The logits of all test images: the tiers are made of them. What else is wanted, is wanted of few."""
        test, model_hash = self.dataset.test, folder.output_hash("train", MODEL)
        inputs = {
            "model": model_hash,
            "test": test.sha256(),
            "preprocess": self.dataset.preprocess.describe(),
            "torch": torch.__version__,
        }

        def build() -> GoldenFacts:
            torch.set_num_threads(self.spec.engine.sketched_threads)
            shared, rows = shared_golden(self.spec, model_hash, test), range(len(test))
            logits = {array_name(LOGITS): folder / LOGITS}
            if shared.write_cached(logits):
                log.info("golden: reused, recorded before of the same model and %s images", f"{len(test):,}")
            else:
                log.info("golden: logits of %s test images", f"{len(test):,}")
                with watch("golden", len(test), "images") as advance:
                    record_reference(
                        load_model(folder / MODEL), test, rows, folder.path, fix=_FEWER_IMAGES, advance=advance
                    )
                shared.keep(logits)
            predictions = read_array(folder / LOGITS).argmax(1)
            warn_of_order(predictions, test.labels, self.dataset.classes)
            accuracy = float((predictions == test.labels).mean())
            return GoldenFacts(accuracy=accuracy, images=len(rows))

        folder.stage("golden", inputs, [LOGITS], build)
        fix = "train longer (model.training.epochs)"
        check_accuracy(facts_of(folder, "golden", GoldenFacts).accuracy, self.spec.gates.test_accuracy, fix)

    def make_plain(self, folder: RunFolder, target: str, reuse: Reuse = NO_REUSE) -> None:
        file, engine, part = f"{target}.onnx", self.spec.engine, self.spec.part_of(target)
        versions = {name: installed_version(name) for name in ("torch", "onnx", "onnxscript")}
        inputs: dict[str, Any] = {
            "model": folder.output_hash("train", MODEL),
            "opset": OPSET,
            "versions": versions,
            "precision": engine.precision,
        }
        if part != target:
            inputs["part"] = part
        calibration = images = None
        if engine.precision == "int8":
            chosen = calibration_split(self.dataset, engine.calibration, self._root)
            calibration, images = replace(engine.calibration, images=len(chosen)), chosen.batch(slice(None))
            source = data_name(calibration.source)  # without the folders of this machine
            inputs["calibration"] = {**calibration.to_json(), "source": source, "content": chosen.sha256()}

        def build() -> None:
            log.info("export: %s -> %s (%s)", part, file, engine.precision)
            model = load_model(folder / MODEL)
            export_target(
                model, part, folder / file, precision=engine.precision, images=images, calibration=calibration
            )

        stage, apart = f"export.{target}", is_apart((folder / MODEL).stat().st_size, part, engine.precision)
        files = exported_files(file, apart)
        folder.stage(stage, inputs, files, reuse.stage(stage, folder.path, inputs, files, build))

    def described(self, folder: RunFolder) -> DescribedModel:
        name = str(self.trained.folder.manifest["name"]) if self.trained else "trained here"
        return DescribedModel(
            preset=self.spec.model.preset or name,
            parameters=sum(parameter.numel() for parameter in load_model(folder / MODEL).parameters()),
            sha256=folder.output_hash("train", MODEL),
            reference="PyTorch, float32",
            changes=[],
        )


def _check_fit(config: ViTConfig, dataset: Dataset) -> None:
    wanted = (config.image, config.channels, config.classes)
    own = (dataset.image, dataset.channels, len(dataset.classes))
    for name, want, have in zip(("image", "channels", "classes"), wanted, own, strict=True):
        if want != have:
            raise UsageError(
                f"the model has {name} = {want} but data set {dataset.name!r} has {have};"
                f" set model.overrides.{name} = {have} or choose another model or data set"
                + (f"; {ONLY_SOME}" if name == "classes" and want > have else "")
            )
    if config.depth < 1 or not config.heads[0]:
        raise UsageError("the model's first block has no attention; choose a model whose first block has heads")
