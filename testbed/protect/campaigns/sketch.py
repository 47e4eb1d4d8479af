"""A protected model before there is one: the passes on a file of the same shape, for what can be told and refused ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from testbed.campaign.plan.sections import check_sections
from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.prepare.subject import KnownModel, Sketch, Subject
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import EngineError, UsageError
from testbed.core.site import SiteTable
from testbed.data import Dataset
from testbed.engines.runner import EngineRequest, open_engine
from testbed.export.calibration import calibration_split
from testbed.export.precision import Calibration
from testbed.instrument.adopt.file import Adopted
from testbed.instrument.packed import packed
from testbed.instrument.shapes import input_name
from testbed.instrument.table import site_table
from testbed.protect.build import protect
from testbed.protect.campaigns.requested import in_table
from testbed.protect.contract import CalibrationSet
from testbed.protect.run import ProtectRequest

if TYPE_CHECKING:
    from testbed.campaign.spec.protect import ProtectSpec

_IMAGES = 16
"""What a sketch is calibrated on: bounds do not change what it computes."""


@dataclass(frozen=True)
class ProtectedSketch:
    """The subject of the protected campaign, as far as it can be told ahead. plain: that of the campaign itself; file: a
    protected one of the same shape; batch: empty inputs."""

    spec: CampaignSpec
    plain: Subject
    file: bytes
    batch: NDArray[np.float32]

    @classmethod
    def of(cls, spec: CampaignSpec, plain: Subject, request: ProtectRequest, table: ProtectSpec) -> ProtectedSketch:
        """The passes on the plain campaign's sketch. spec: the protected campaign's.

        Raises UsageError where a pass cannot be applied to such a model, or measured on that engine.
        """
        file, batch, beside = plain.sketch("model")
        if beside:
            raise UsageError("protect: the model holds 2 GiB or more; such models are not protected here")
        root = spec.data.root if spec.data is not None else None
        settings = Calibration(min(_IMAGES, table.calibration_images), source=table.calibration_data)
        with in_table("protect.calibration_data"):
            images = calibration_split(plain.dataset, settings, root).batch(slice(None))
        calibration = CalibrationSet(images, request.engines, request.precisions[0])
        with _refused(), in_table("protect"):
            made = protect(onnx.load_from_string(file), request.passes, calibration, "the model")
        return cls(spec, plain, made.proto.SerializeToString(deterministic=True), batch)

    @property
    def dataset(self) -> Dataset:
        return self.plain.dataset

    def known(self) -> KnownModel:
        return self.plain.known()

    def check_sites(self) -> None:
        """Raises UsageError for a site that the protected model will not have."""
        check_sections(self.spec.faults, {"model": self.site_table(self.file, "model")})

    def sketch(self, target: str) -> Sketch:
        return Sketch(self.file, self.batch)

    def site_table(self, plain: bytes, target: str) -> SiteTable:
        if isinstance(self.plain, OnnxSubject):
            return replace(self.plain, spec=self.spec, adopted=Adopted(plain, ())).site_table(plain, target)
        return site_table(plain, target, self.spec.engine.ports)

    def check_engine(self) -> None:
        """Runs it once. Raises UsageError where the engine cannot, such as for want of an operator of the passes."""
        engine = self.spec.engine
        model = packed(self.file)
        request = EngineRequest.of_bytes(
            model,
            "sketch",
            precision=engine.precision,
            threads=engine.sketched_threads,
            max_batch=engine.sketched_batch,
        )
        with _refused(), open_engine(engine.backend, request) as runner:
            runner.run({input_name(model): self.batch})


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise UsageError(
            f"the protected model does not run on this engine: {error}, or name other passes (protect.with)"
        ) from error
