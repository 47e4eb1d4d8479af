"""A campaign's model in another precision than its own, as plain ONNX."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from testbed.campaign.files import Files
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.prepare.stages import Preparation
from testbed.core.errors import UsageError
from testbed.core.folder.places import with_sources
from testbed.core.protected import is_protected
from testbed.export.precision import cast_model
from testbed.models.runs import MODEL, open_model_run


def plain_in(workplace: Workplace, target: str, precision: str) -> bytes:
    """The plain ONNX file of the campaign's target in this precision. An int8 model is calibrated as the spec says.

    Raises UsageError for a file that is the only source of its model and cannot be cast, and for a precision that a
    protected model was not protected in; TestbedError where weights overflow the format.
    """
    file = Files(target).plain
    own = workplace.spec.engine.precision
    if precision == own:
        return (workplace.folder / file).read_bytes()
    if is_protected(onnx.load(workplace.folder / file)):
        if workplace.spec.model.onnx is not None:
            raise UsageError(
                f"{workplace.spec.model.onnx} was protected in {own}; there is no {precision} file of it to compare with"
            )
        return open_model_run(workplace.folder.path).protected_path(target, precision).read_bytes()
    if own == "fp32" and precision in ("fp16", "bf16"):
        return cast_model(onnx.load(workplace.folder / file), precision).SerializeToString(deterministic=True)
    if workplace.spec.model.onnx is not None:
        raise UsageError(
            f"{workplace.spec.model.onnx} computes in {own}; there is no {precision} model of it to compare with"
        )
    return _exported(workplace, target, precision)


def _exported(workplace: Workplace, target: str, precision: str) -> bytes:
    from testbed.export.calibration import calibration_split
    from testbed.export.target import export_target
    from testbed.models.weights import load_model

    workplace.folder.verify("train", [MODEL])
    calibration = images = None
    if precision == "int8":
        preparation = Preparation.finished(workplace.spec, workplace.folder)
        kept = with_sources(
            {"engine": {"calibration_data": workplace.spec.engine.calibration_data}}, workplace.folder.path
        )
        wanted = replace(workplace.spec.engine.calibration, source=kept["engine"]["calibration_data"])
        asked = workplace.spec.named_data or preparation.subject.data_source
        chosen = calibration_split(preparation.dataset, wanted, asked.root if asked else None)
        calibration, images = replace(wanted, images=len(chosen)), chosen.batch(slice(None))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        export_target(
            load_model(workplace.folder / MODEL),
            workplace.spec.part_of(target),
            path,
            precision=precision,
            images=images,
            calibration=calibration,
        )
        return path.read_bytes()
