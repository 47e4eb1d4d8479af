"""What scores rest on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from testbed.core.folder.places import data_name
from testbed.sensitivity.circuits.ablation import Ablation
from testbed.sensitivity.circuits.acdc import PruningRule
from testbed.sensitivity.circuits.analysis_set import Corruption
from testbed.sensitivity.circuits.eap import Loss
from testbed.sensitivity.rank.catalogue import FACTS, ScoreMethod

SettingValues = dict[str, str | float | None]
"""Settings by name, for manifests and reports."""


@dataclass(frozen=True)
class ScoreSettings:
    """What scores rest on. images: of the validation split (the training split where there is none), chosen by the
    seed, classes in turn; of another data set's where ``data`` names one (testbed.data.another). masks: where the objects
    that ``corrupt`` "masked" takes out are, a folder or "imagenet-s".

    ACDC scores do not depend on ``tau`` where nothing is removed; it decides what later visits are measured against.
    """

    images: int = 256
    seed: int = 0
    chunks: int = 8
    tau: float = 0.05
    rule: PruningRule = "incremental"
    ablation: Ablation = "zero"
    loss: Loss = "task"
    corrupt: Corruption = "other_class"
    snr_db: float = 0.0
    steps: int = 5
    data: str | None = None
    masks: str | None = None

    def used_by(self, by: ScoreMethod) -> SettingValues:
        """Those that the method's scores depend on."""
        names = FACTS[by].settings
        named = (*names, *(() if self.data is None else ("data",)))
        if self.masks is not None and "corrupt" in names:
            named = (*named, "masks")
        return {name: self.to_json()[name] for name in ("images", "seed", "chunks", *named)}

    def to_json(self) -> SettingValues:
        values = asdict(self) | {"data": None if self.data is None else data_name(self.data)}
        return {name: value for name, value in values.items() if name != "masks" or value is not None}
