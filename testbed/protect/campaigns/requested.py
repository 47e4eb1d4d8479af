"""What a [protect] table asks for: a protection of the model, and a campaign of the protected one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import onnx

from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.prepare.subject import Subject
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.spec.protect import ProtectSpec
from testbed.core.errors import UsageError
from testbed.core.folder.places import PROTECTED_CAMPAIGN, PROTECTED_MODEL
from testbed.core.protected import is_protected
from testbed.models.runs import DataSource, open_model_run
from testbed.protect.named import passes_named, patterns_by_pass
from testbed.protect.placement.placing import PlacementRequest
from testbed.protect.run import ProtectRequest
from testbed.sensitivity.rank.ranking import RankedBy

FILE = f"{PROTECTED_MODEL}/model.onnx"
"""Of a campaign's folder: an ONNX file of others, protected."""


def protect_table(spec: CampaignSpec) -> ProtectSpec:
    """The table of a spec that has one."""
    assert spec.protect is not None
    return spec.protect


@contextmanager
def in_table(key: str) -> Iterator[None]:
    """Leads what is refused within with the key of the spec that asked for it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from error


def protect_request(spec: CampaignSpec) -> ProtectRequest:
    """The protection that is asked for, in the campaign's engine and precision.

    Raises UsageError for what cannot be asked for.
    """
    with in_table("protect"):
        request = _request(spec)
        request.check()
    return request


def _request(spec: CampaignSpec) -> ProtectRequest:
    table, engine = protect_table(spec), spec.engine
    placement = None
    if table.by is not None and table.budget is not None:
        placement = PlacementRequest(cast(RankedBy, table.by), table.budget, table.cost, None, table.cost_batch)
    passes = passes_named(
        table.passes,
        patterns_by_pass(table.passes, table.where),
        margin=table.margin,
        nan=table.nan,
        vote=table.vote,
        factor=table.factor,
        activations=table.activations,
        unsigned=table.unsigned,
        under_budget=placement is not None,
    )
    return ProtectRequest(
        passes,
        (engine.precision,),
        (engine.backend,),
        table.calibration_images,
        table.calibration_data,
        table.images,
        placement,
    )


def protected_spec(spec: CampaignSpec, folder: Path) -> CampaignSpec:
    """The campaign of the protected model, of the same faults, images and settings. folder: the plain campaign's."""
    values: dict[str, Any] = spec.model_dump(mode="json", exclude={"protect"})
    values["name"] = folder_name(spec)
    if spec.model.onnx is not None:
        values["model"] |= {"onnx": str(folder / FILE)}
    else:
        values["model"] = {"run": str(folder / PROTECTED_MODEL)}
        images = None if spec.data is None else spec.data.images
        values["data"] = None if images is None else {"images": images}  # else as the model's folder says
    return parse_spec(values)


def folder_name(spec: CampaignSpec) -> str:
    """The name of the protected campaign."""
    return f"{spec.name}-{Path(PROTECTED_CAMPAIGN).parent}"


def data_source(spec: CampaignSpec, subject: Subject) -> DataSource:
    """The data set of a campaign on a model of the testbed, with what its spec states of it."""
    asked, source = spec.data, subject.data_source
    if source is None:
        assert asked is not None
        assert asked.name is not None
        return DataSource(asked.name, asked.root, asked.preprocess, spec.training_seed, asked.classes)
    preprocess = source.preprocess if asked is None or asked.preprocess is None else asked.preprocess
    classes = source.classes if asked is None or asked.classes is None else asked.classes
    return DataSource(source.name, source.root, preprocess, source.seed, classes)


def check_plain(spec: CampaignSpec, subject: Subject) -> None:
    """Raises UsageError for a model that is protected already."""
    run, file = spec.model.run, spec.model.onnx
    is_protected_run = run is not None and Path(run).is_dir() and bool(open_model_run(Path(run)).protected)
    is_protected_file = isinstance(subject, OnnxSubject) and is_protected(onnx.load_from_string(subject.adopted.plain))
    if is_protected_run or is_protected_file:
        raise UsageError(
            f"{run or file} is protected already; name the model that it was made from, or leave [protect] out"
        )
