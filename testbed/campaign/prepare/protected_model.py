"""A protected model of the testbed: what is deployed is the protected file itself, its reference the plain model's golden."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from testbed.campaign.files import Files
from testbed.campaign.plan.sections import check_sections
from testbed.campaign.prepare.subject import Sketch
from testbed.campaign.prepare.torch_model import TorchSubject
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.folder.runfolder import RunFolder
from testbed.core.protected import is_detecting, protected_file
from testbed.models.runs import MODEL

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProtectedSubject(TorchSubject):
    """A run folder's protected model. Raises UsageError for a precision that it was not protected in, and for parts."""

    def __post_init__(self) -> None:
        assert self.trained is not None
        for target in self.spec.targets:
            self.trained.protected_path(target, self.spec.engine.precision)
        if self.spec.stop is not None and self.spec.stop.proxy != "none":
            raise UsageError("stop.proxy: guesses are of the plain model, without its checks; leave it out")

    @property
    def raises_alarms(self) -> bool:
        return is_detecting(onnx.load_from_string(self._deployed))

    @cached_property
    def _deployed(self) -> bytes:
        assert self.trained is not None
        return self.trained.protected_path("model", self.spec.engine.precision).read_bytes()

    def check_sites(self) -> None:
        """The file names them, those of its checks too."""
        check_sections(self.spec.faults, {"model": self.site_table(self._deployed, "model")})

    def sketch(self, target: str) -> Sketch:
        """The file itself."""
        c, batch = self.config, self.spec.engine.sketched_batch
        return Sketch(self._deployed, np.zeros((batch, c.channels, c.image, c.image), np.float32))

    def _take_trained(self, folder: RunFolder) -> None:
        """The model, and its file in every precision: the folder then needs no other."""
        trained = self.trained
        assert trained is not None
        files = [MODEL, *map(protected_file, trained.protected)]

        def build() -> None:
            trained.folder.verify(trained.stage)
            log.info("model: the one in %s, protected", trained.folder.path)
            for file in files:
                write_bytes(folder / file, (trained.folder / file).read_bytes())

        hashes = {file: trained.folder.output_hash(trained.stage, file) for file in files}
        folder.stage("train", {"model": hashes.pop(MODEL), "protected": hashes}, files, build)

    def make_plain(self, folder: RunFolder, target: str, reuse: Reuse = NO_REUSE) -> None:
        source, file = protected_file(self.spec.engine.precision), Files(target).plain

        def build() -> None:
            log.info("export: %s -> %s", source, file)
            write_bytes(folder / file, (folder / source).read_bytes())

        folder.stage(f"export.{target}", {"protected": folder.output_hash("train", source)}, [file], build)
