"""A user's own ONNX file: nothing is trained, and the golden is the file's own outputs on the campaign's engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from pydantic import JsonValue

from testbed.campaign.described import AbsentSite, DescribedModel
from testbed.campaign.facts import ExportFacts, GoldenFacts, PlainGolden
from testbed.campaign.plan.sections import check_sections
from testbed.campaign.prepare.as_trained import check_fit, check_like_library, check_pixels, warn_of_split
from testbed.campaign.prepare.module_golden import golden_batches, module_of, module_table, write_module
from testbed.campaign.prepare.row_gate import input_influence
from testbed.campaign.prepare.subject import KnownModel, Sketch, cached_logits, check_accuracy, dataset_of
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_bytes, write_bytes
from testbed.core.folder.provenance import processor
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.protected import is_detecting
from testbed.core.site import SiteTable
from testbed.data import Dataset
from testbed.data.classes.order_check import warn_of_order
from testbed.data.preprocess.steps import PIXELS
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.engines.weights import Weights, weights_beside
from testbed.golden.arrays import array_writer, read_array
from testbed.golden.reference import LOGITS
from testbed.golden.shared import SharedGolden, array_name
from testbed.instrument.adopt.ending import check_logits
from testbed.instrument.adopt.file import Adopted, LeanAdopted, adopt_lean
from testbed.instrument.adopt.images import takes_pixels
from testbed.instrument.adopt.judged import check_weights, image_side, judged
from testbed.instrument.adopt.sizes import check_memory
from testbed.instrument.cut.module import AttentionModule
from testbed.instrument.lean.apart import data_file
from testbed.instrument.lean.read import read_model
from testbed.instrument.quantised import number_format_of, parameters
from testbed.instrument.shapes import fixed_batch, input_shape, model_input
from testbed.instrument.sites.catalogue import Catalogue, catalogue_of
from testbed.instrument.table import deployment_id, table_of

log = logging.getLogger(__name__)

PLAIN = "model.onnx"
_STAGE = "export.model"
_LISTED = 4  # sites in a line
FIXED_BATCH = "the file takes one image at a time"


@dataclass(frozen=True)
class OnnxSubject:
    """``adopted``: the file's content, or what the campaign's folder has of it where the file is gone."""

    spec: CampaignSpec
    dataset: Dataset
    adopted: Adopted

    @classmethod
    def of(cls, spec: CampaignSpec, folder: RunFolder | None) -> OnnxSubject:
        assert spec.model.onnx is not None
        path = Path(spec.model.onnx)
        kept = folder is not None and _STAGE in folder.manifest.get("stages", {})
        if kept and not path.exists():
            assert folder is not None
            folder.verify(_STAGE)
            adopted = LeanAdopted(read_model(folder / PLAIN)[0], (), folder / PLAIN)
        else:
            adopted = adopt_lean(path, spec.model.output, spec.model.image_size)
        dataset = _dataset(spec, adopted.proto, path.parent)
        if not kept or path.exists():
            adopted = judged(adopted, spec.model.onnx, len(dataset.classes))
        proto = adopted.proto
        check_fit(proto, dataset, spec.model.onnx)
        check_weights(proto, spec.model.onnx)
        warn_of_split(spec, dataset)
        check_memory(proto, spec.model.onnx, 1 if fixed_batch(proto) else spec.engine.sketched_batch)
        return cls(spec, dataset, adopted.with_weights(data_file(PLAIN)))

    @cached_property
    def _batch(self) -> int:
        """Images that are run at once before the engine is tuned."""
        return fixed_batch(self._proto) or self.spec.engine.sketched_batch

    @property
    def raises_alarms(self) -> bool:
        return is_detecting(self._proto)

    @property
    def data_source(self) -> None:
        """The spec names the data set."""

    def known(self) -> KnownModel:
        """Its golden may have been recorded in whole batches, or image by image."""
        with self._opened(self.adopted.weights()) as runner:
            for batch in dict.fromkeys((self._batch, 1)):
                if (logits := cached_logits(self._shared(runner, batch))) is not None:
                    return KnownModel(logits=logits)
        return KnownModel()

    def check_sites(self) -> None:
        tables: dict[str, SiteTable] = {name: self._table_of(name) for name in ("model", *self.spec.targets)}
        check_sections(self.spec.faults, tables)
        computes, precisions = number_format_of(tables["model"])
        if not precisions:
            raise UsageError(
                f"{self.spec.model.onnx} computes in {computes}, which campaigns do not offer; quantise its activations to"
                " 8 bits"
            )
        if self.spec.engine.precision not in precisions:
            raise UsageError(
                f"{self.spec.model.onnx} computes in {computes}, and engine.precision is"
                f" {self.spec.engine.precision!r}; set engine.precision = {precisions[0]!r}, or name a file that was converted"
            )

    def _table_of(self, target: str, plain: bytes | None = None) -> SiteTable:
        """The sites of the file, or of the module. plain: as the campaign's folder has it."""
        wanted = [pattern for section in self.spec.faults if section.target == target for pattern in section.sites]
        if target != "model":
            return module_table(self.spec, self._module, plain, wanted)
        return table_of(self._catalogue, self.adopted.plain, target, self.spec.engine.ports, also=wanted)

    @cached_property
    def _module(self) -> AttentionModule:
        return module_of(self.spec, self._catalogue)

    @cached_property
    def _catalogue(self) -> Catalogue:
        return catalogue_of(self.adopted.proto)

    def sketch(self, target: str) -> Sketch:
        """The file itself, or the module."""
        if target != "model":
            shape = (self._batch, *input_shape(self._module.catalogue.proto))
            return Sketch(self._module.plain, np.zeros(shape, np.float32))
        shape = (self._batch, self.dataset.channels, self.dataset.image, self.dataset.image)
        return Sketch(self.adopted.plain, np.zeros(shape, np.float32), self.adopted.weights())

    def site_table(self, plain: bytes, target: str) -> SiteTable:
        return self._table_of(target, plain)

    def make_golden(self, folder: RunFolder, watch: Watch = unwatched, reuse: Reuse = NO_REUSE) -> None:
        """Takes the file into the folder, and runs it on every test image."""
        missing, apart = self._catalogue.missing, self.adopted.apart
        written = [PLAIN] if apart is None else [PLAIN, data_file(PLAIN)]

        def adopt_file() -> ExportFacts:
            log.info("model: %s", "; ".join((str(self.spec.model.onnx), *self.adopted.changes)))
            if apart is not None:
                apart.write_weights(folder / data_file(PLAIN))
            write_bytes(folder / PLAIN, self.adopted.plain)
            if missing:
                some = "; ".join(f"{name}, {why}" for name, why in list(missing.items())[:_LISTED])
                more = f"; and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
                log.warning("model: not there, and left out of every pattern of sites: %s%s", some, more)
            absent = [AbsentSite(site=name, why=why) for name, why in missing.items()]
            return ExportFacts(changes=list(self.adopted.changes), not_there=absent)

        folder.stage(_STAGE, {"plain": sha256_bytes(self.adopted.plain)}, written, adopt_file)
        test, engine = self.dataset.test, self.spec.engine
        inputs = {
            "plain": folder.output_hash(_STAGE, PLAIN),
            "test": test.sha256(),
            "preprocess": self.dataset.preprocess.describe(),
            "engine": engine.model_dump(mode="json"),
        }
        made_from = {**inputs, "seed": self.spec.seed, "image": self.dataset.image}  # the file may leave that open

        def build() -> GoldenFacts:
            log.info("golden: logits of %d test images, by the plain engine itself", len(test))
            run = reuse.stage(
                "golden", folder.path, made_from, [LOGITS], lambda: self._run(folder, watch), on_engine=True
            )
            golden = PlainGolden.model_validate(run())
            if golden.influence not in ("", FIXED_BATCH) and golden.cache:
                log.warning("golden: %s; each image is run alone", golden.influence)
            logits = read_array(folder / LOGITS)
            if doubt := check_logits(logits, str(self.spec.model.onnx)):
                log.warning("golden: %s", doubt)
            predictions = logits.argmax(1)
            warn_of_order(predictions, test.labels, self.dataset.classes)
            accuracy = float((predictions == test.labels).mean())
            facts = GoldenFacts(
                accuracy=accuracy, images=len(test), source="plain engine", engine_hash=golden.engine_hash
            )
            known = {"rows_influence": golden.influence, "cache": golden.cache}
            return facts.model_copy(update={name: value for name, value in known.items() if value})

        folder.stage("golden", inputs, [LOGITS], build)
        fix = "is the data set, or its preprocessing (data.preprocess), the one it was trained for? Correct it"
        check_accuracy(facts_of(folder, "golden", GoldenFacts).accuracy, self.spec.gates.test_accuracy, fix)

    def _run(self, folder: RunFolder, watch: Watch) -> PlainGolden:
        """Writes the logits (n, K) of all test images."""
        test = self.dataset.test
        name, output = model_input(self._proto).name, self._proto.graph.output[0].name
        with self._opened(weights_beside(self.adopted.plain, folder.path)) as runner:

            def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
                return runner.run({name: images})[output].astype(np.float32)

            batch = self._batch
            some = test.batch(slice(0, batch))
            influence = input_influence(run, np.resize(some, (batch, *some.shape[1:])), self.spec.seed)
            if influence:
                log.warning("golden: %s; each image is run alone", influence)
                batch = 1
            if fixed_batch(self._proto):
                influence = FIXED_BATCH
            shared, logits = self._shared(runner, batch), {array_name(LOGITS): folder / LOGITS}
            if shared.write_cached(logits):
                log.info("golden: reused, recorded before of the same file and images")
            else:
                self._record(run, batch, folder / LOGITS, watch)
                shared.keep(logits)
            return PlainGolden(engine_hash=runner.info.hash, influence=influence)

    def _opened(self, weights: Weights) -> Runner:
        """The plain engine, whose outputs are the golden. weights: those that the file only names."""
        engine, plain = self.spec.engine, self.adopted.plain
        request = EngineRequest.of_bytes(
            plain,
            deployment_id(plain),
            precision=engine.precision,
            threads=engine.sketched_threads,
            max_batch=self._batch,
            weights=weights,
        )
        return open_engine(engine.backend, request)

    def _shared(self, runner: Runner, batch: int) -> SharedGolden:
        computed_by: dict[str, JsonValue] = {"engine": runner.info.hash, "processor": processor(), "batch": batch}
        return SharedGolden(runner.info.file_sha256, self.dataset.test, computed_by)

    def _record(
        self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], batch: int, file: Path, watch: Watch
    ) -> None:
        test = self.dataset.test
        with array_writer(file, len(test)) as writer, watch("golden", len(test), "images") as advance:
            for rows, images in golden_batches(test, np.arange(len(test)), batch):
                writer.append(run(images)[: len(rows)])
                advance(len(rows))

    def make_plain(self, folder: RunFolder, target: str, reuse: Reuse = NO_REUSE) -> None:
        """The file is there already; a module is cut out of it."""
        if target != "model":
            write_module(folder, self._module, target, folder.output_hash(_STAGE, PLAIN))

    def described(self, folder: RunFolder) -> DescribedModel:
        taken = facts_of(folder, _STAGE, ExportFacts)
        return DescribedModel(
            preset=Path(str(self.spec.model.onnx)).name,
            parameters=parameters(self._proto),
            sha256=folder.output_hash(_STAGE, PLAIN),
            reference="the plain engine itself",
            changes=taken.changes,
            not_there=taken.not_there,
        )

    @property
    def _proto(self) -> ModelProto:
        return self.adopted.proto


def _dataset(spec: CampaignSpec, proto: ModelProto, beside: Path) -> Dataset:
    """The spec's data set, as pixels where the file takes these and the spec does not say how. beside: the file's folder."""
    assert spec.data is not None
    data, pixels = spec.data, takes_pixels(proto)
    if pixels and data.preprocess is None:
        data = data.model_copy(update={"preprocess": PIXELS})
        spec = spec.model_copy(update={"data": data})
    dataset = dataset_of(spec, None, image_side(proto))
    if pixels:
        check_pixels(dataset, str(spec.model.onnx))
    else:
        check_like_library(data, dataset, beside)
    return dataset
