"""Protection of the model in a run folder, into a run folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from onnx import ModelProto
from pydantic import JsonValue

from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.core.formats import PRECISIONS
from testbed.core.protected import STAGE
from testbed.core.words.nearest import unknown
from testbed.data import Dataset
from testbed.engines.backends import check_engine, require_engine
from testbed.export.calibration import TRAIN, calibration_split
from testbed.export.precision import Calibration as QuantisationSettings
from testbed.export.target import export_target, is_apart
from testbed.golden.source import dataset_of
from testbed.models.runs import MODEL, ModelRun, onnx_file_of, open_model_run, write_model_run
from testbed.protect.checked import JudgedFile, MeasuredOn, make_checked
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.destination import check_new_folder
from testbed.protect.graph import GraphEditor
from testbed.protect.placement.placing import Placement, PlacementRequest, choose_places
from testbed.protect.record import PlannedProtection, ProtectedRun, describe_file

_COST_IMAGES = 16
"""What engines that are timed are calibrated on: bounds do not change what they compute."""


@dataclass(frozen=True)
class ProtectRequest:
    """What is asked for. calibration_images: of the training images, or of ``calibration_data``; images: test images that
    the result is held against; placement: how places are chosen, None for all that the passes name."""

    passes: tuple[ProtectionPass, ...]
    precisions: tuple[str, ...] = ("fp32",)
    engines: tuple[str, ...] = ("ort-cpu",)
    calibration_images: int = 256
    calibration_data: str = TRAIN
    images: int = 1000
    placement: PlacementRequest | None = None

    def check(self) -> None:
        """Raises UsageError for an unknown precision, or an engine that is unknown or not there."""
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise UsageError(unknown("precision", precision, PRECISIONS))
        if not self.engines:
            raise UsageError("name an engine that thresholds are measured on: --engine ort-cpu")
        for engine in self.engines:
            for precision in self.precisions:
                check_engine(engine, precision)
            require_engine(engine)
        if self.placement is not None:
            self.placement.check()

    @property
    def measured(self) -> MeasuredOn:
        """What is measured and judged on."""
        return MeasuredOn(self.engines, self.calibration_images, self.calibration_data, self.images)

    def to_json(self) -> dict[str, JsonValue]:
        """What tells one protection of a model from another."""
        chosen = {} if self.placement is None else {"placement": asdict(self.placement)}
        return {
            "passes": [{"pass": step.name, **step.settings} for step in self.passes],
            "precisions": list(self.precisions),
            "engines": list(self.engines),
            "calibration_images": self.calibration_images,
            "calibration_data": self.calibration_data,
            "images": self.images,
            **chosen,
        }


def protect_run(
    source: Path, to: Path, request: ProtectRequest, notify: Callable[[str], None] = lambda _: None
) -> ProtectedRun:
    """Write the protected model of ``source`` into ``to``.

    Raises UsageError for what cannot be protected, GateFailed for a file that does not keep what it promises; nothing is
    written then.
    """
    request.check()
    run = _plain_run(source)
    check_new_folder(source, to)
    return protect_model_run(run, to, request, notify=notify)


def protect_model_run(
    run: ModelRun,
    to: Path,
    request: ProtectRequest,
    *,
    plain: ModelProto | None = None,
    scored: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> ProtectedRun:
    """Write the protected model of an open run folder into ``to``; raises as `protect_run`.

    plain: its file in the first precision, where it need not be exported; scored: the folder that places are weighed in under a
    budget, by default the run's.
    """
    source, dataset, first = run.folder.path, dataset_of(run), request.precisions[0]
    if plain is None:
        notify(f"{first}: exporting")
        plain = exported(run, dataset, first)
    plain_files = {first: plain}
    request, placement = _narrowed(scored or source, run, dataset, plain, request, notify)
    files, contents = [], {}
    for precision in request.precisions:
        if precision not in plain_files:
            notify(f"{precision}: exporting")
            plain_files[precision] = exported(run, dataset, precision)
        file = plain_files.pop(precision)
        judged = JudgedFile(file, precision, str(source), dataset, run.data.root if run.data else None)
        protected, ensured = make_checked(judged, request.passes, request.measured, notify)
        content = protected.proto.SerializeToString(deterministic=True)
        contents[precision] = content
        files.append(describe_file(file, protected, ensured, precision, content))
    record = ProtectedRun(str(to), str(source), tuple(files), placement)
    made_from = {"model": run.model_hash, **request.to_json()}
    name = f"{run.folder.manifest['name']}-{'+'.join(step.name for step in request.passes)}"
    write_model_run(
        to,
        run.model,
        stage=STAGE,
        name=name,
        made_from=made_from,
        data=run.data,
        facts=record.to_json(),
        protected=contents,
    )
    return record


def plan_protection(
    source: Path, request: ProtectRequest, notify: Callable[[str], None] = lambda _: None
) -> PlannedProtection:
    """What `protect_run` would add, found on the fp32 file; nothing is written. No image is run, but where places are chosen
    under a budget: costs are measured then, on the first precision."""
    run = _plain_run(source)
    dataset, precision = dataset_of(run), "fp32" if request.placement is None else request.precisions[0]
    plain = exported(run, dataset, precision)
    placement = None
    if request.placement is not None:
        request.check()
        request, placement = _narrowed(source, run, dataset, plain, request, notify)
    return plan_passes(plain, request, str(source), placement)


def plan_passes(
    plain: ModelProto, request: ProtectRequest, name: str, placement: Placement | None = None
) -> PlannedProtection:
    """What the passes would add to a plain file."""
    places, left_out = {}, {}
    for step in request.passes:
        graph = GraphEditor(plain)
        step.requires(graph)
        places[step.name], left_out[step.name] = step.planned(graph)
    return PlannedProtection(name, places, left_out, placement)


def _narrowed(
    source: Path,
    run: ModelRun,
    dataset: Dataset,
    plain: ModelProto,
    request: ProtectRequest,
    notify: Callable[[str], None],
) -> tuple[ProtectRequest, Placement | None]:
    """The request at the places that are chosen under its budget; as it is without one. plain: of the first precision."""
    if request.placement is None:
        return request, None
    settings = QuantisationSettings(_COST_IMAGES, source=request.calibration_data)
    images = calibration_split(dataset, settings, run.data.root if run.data else None).batch(slice(None))
    calibration = CalibrationSet(images, request.engines, request.precisions[0])
    placement, steps = choose_places(source, plain, request.passes, request.placement, calibration, notify=notify)
    return replace(request, passes=steps), placement


def _plain_run(source: Path) -> ModelRun:
    if file := onnx_file_of(RunFolder.existing(source)):
        raise UsageError(f"{source} is a campaign on a file and holds no model of its own; protect {file}")
    run = open_model_run(source)
    if run.protected:
        raise UsageError(f"{source} is protected already; protect the model that it was made from")
    return run


def exported(run: ModelRun, dataset: Dataset, precision: str) -> ModelProto:
    """The run's plain model in one precision, as `testbed export` writes it. Raises UsageError for 2 GiB and more."""
    if is_apart((run.folder / MODEL).stat().st_size, "model", precision):
        raise UsageError(
            f"{run.folder.path} holds 2 GiB or more in {precision}; such models are not protected here: take --precision fp16"
        )
    settings, images = None, None
    if precision == "int8":
        settings = QuantisationSettings(256)
        chosen = calibration_split(dataset, settings, run.data.root if run.data else None)
        images = chosen.batch(slice(None))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plain.onnx"
        return export_target(run.model, "model", file, precision=precision, images=images, calibration=settings)
