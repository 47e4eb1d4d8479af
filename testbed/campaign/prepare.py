"""From spec to instrumented engines' files: data, model, golden, tiers, plain ONNX, twins, site tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.confidence import TierEdges, Tiers, first_of_each, tiers_from_logits
from testbed.campaign.images import Inputs, NamedImages
from testbed.campaign.spec import CampaignSpec
from testbed.campaign.subject import subject_of
from testbed.core.errors import StaleArtefact
from testbed.core.files import write_bytes, write_json
from testbed.core.runfolder import RunFolder
from testbed.core.site import SiteTable
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS
from testbed.instrument.ports import instrument

TIERS = "tiers.json"


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
        self.subject = subject_of(spec, folder)
        self.dataset = self.subject.dataset
        self.subject.check_sites()

    def run(self) -> None:
        """All stages up to the twins. Raises GateFailed when the model is not as good as the spec asks."""
        self.subject.make_golden(self.folder)
        self._tiers()
        for target in self.spec.targets:
            self.subject.make_plain(self.folder, target)
            self._instrument(target)

    # ---- stages

    def _tiers(self) -> None:
        tiers = self.spec.tiers
        inputs = {"logits": self._hash("golden", LOGITS), "edges": list(tiers.edges), "images": list(tiers.images)}

        def build() -> None:
            found = self.tiers
            chosen = first_of_each(found, tiers.images)
            write_json(self.folder / TIERS, _tiers_file(found, self.dataset.test.ids, chosen, self.dataset.test.labels))

        self.folder.stage("tiers", inputs, [TIERS], build)

    def _instrument(self, target: str) -> None:
        files = Files(target)

        def build() -> None:
            plain = (self.folder / files.plain).read_bytes()
            table = self.subject.site_table(plain, target)
            write_bytes(self.folder / files.twin, instrument(plain, table).SerializeToString(deterministic=True))
            table.save(self.folder / files.sites)

        inputs = {"plain": self._hash(f"export.{target}", files.plain), "ports": self.spec.engine.ports}
        self.folder.stage(f"instrument.{target}", inputs, [files.twin, files.sites], build)

    def _hash(self, stage: str, file: str) -> str:
        return self.folder.output_hash(stage, file)

    # ---- what later stages read

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
        return self.subject.inputs(self.folder, target, self.images.positions)

    def reference(self, target: str) -> NDArray[np.float32] | None:
        """Reference golden of the named images (n, ...); None where the engine itself is the only one there is."""
        outputs = self.subject.reference(self.folder, target)
        return None if outputs is None else outputs[self.images.positions]


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
