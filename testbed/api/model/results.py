"""Results about one model as objects: its golden, tiers, subset, exports and twins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from testbed.core.json_types import json_ready
from testbed.core.words import html

if TYPE_CHECKING:
    from testbed.golden.deploy import Deployed
    from testbed.golden.recorded import GoldenContent
    from testbed.golden.subset import SubsetRecord
    from testbed.golden.tiers import RecordedTiers
    from testbed.golden.verify import Verification
    from testbed.instrument.twin import TwinFiles


@dataclass(frozen=True, eq=False)
class ModelResult:
    """A result about a model.

    Attributes:
        record: The whole record.
    """

    record: Any

    def to_json(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        value: dict[str, Any] = json_ready(self.record)
        return value


class GoldenSummary(ModelResult):
    """What a recorded golden holds."""

    record: GoldenContent

    @property
    def images(self) -> int:
        """How many images were recorded."""
        return self.record.images

    @property
    def accuracy(self) -> float:
        """Accuracy of the model on them, from 0 to 1."""
        return self.record.accuracy

    @property
    def modules(self) -> list[str]:
        """Modules whose inputs and outputs were recorded."""
        return self.record.modules

    def _repr_html_(self) -> str:
        recorded = ", ".join(["logits", *self.modules])
        return html.heading("Reference golden") + html.facts(
            {"images": f"{self.images:,}", "accuracy": f"{100 * self.accuracy:.2f} %", "recorded": recorded}
        )


class GoldenVerification(ModelResult):
    """How far an engine's outputs are from the golden."""

    record: Verification

    @property
    def passed(self) -> bool:
        """Whether exactly those images are faulty that should be: none, or those of the injected values."""
        return self.record.faulty_images == self.record.expected

    @property
    def tiers(self) -> pd.DataFrame:
        """One row per confidence tier: images, faulty ones, the largest deviation and the smallest atol that passes."""
        return pd.DataFrame(json_ready(self.record.tiers))

    def _repr_html_(self) -> str:
        verdict = "as it should be" if self.passed else "not as it should be"
        rows = [
            (f"{tier.low:g} to {tier.high:g}", tier.n, tier.faulty, _figure(tier.max_abs_diff))
            for tier in self.record.tiers
        ]
        return html.heading(f"{self.record.target} in {self.record.engine}: {verdict}") + html.table(
            ("confidence", "images", "faulty", "largest deviation"), rows
        )


class ConfidenceTiers(ModelResult):
    """Correctly classified images by confidence."""

    record: RecordedTiers

    @property
    def tiers(self) -> pd.DataFrame:
        """One row per tier: low (not in it), high (in it), and the ids of its images."""
        return pd.DataFrame(json_ready(self.record.tiers))

    def _repr_html_(self) -> str:
        rows = [(f"{tier.low:g} to {tier.high:g}", f"{len(tier.images):,}") for tier in self.record.tiers]
        title = f"{self.record.correct:,} images correct, {self.record.incorrect:,} not; of the correct ones"
        return html.heading(title) + html.table(("confidence", "images"), rows)


class ImageSubset(ModelResult):
    """The images that were chosen."""

    record: SubsetRecord

    @property
    def images(self) -> pd.DataFrame:
        """One row per image: its id, label, and position in the test split."""
        chosen = self.record
        return pd.DataFrame({"id": chosen.ids, "label": chosen.labels, "position": chosen.positions})

    def _repr_html_(self) -> str:
        return html.heading(f"{self.record.images:,} images chosen") + html.table(
            ("class", "images"), self.record.classes.items()
        )


class ExportedModel(ModelResult):
    """A deployable file, and its parity with the reference golden."""

    record: Deployed

    @property
    def file(self) -> Path:
        """Path of the file."""
        return Path(self.record.file)

    @property
    def parity(self) -> pd.DataFrame:
        """One row per confidence tier, the last of all images: n, largest deviation, smallest atol, top-1 agreement."""
        return pd.DataFrame(json_ready(self.record.parity))

    def _repr_html_(self) -> str:
        exported = self.record
        rows = [
            (tier.tier, tier.n, _figure(tier.max_abs_diff), _figure(tier.smallest_atol)) for tier in exported.parity
        ]
        return html.heading(f"{exported.file}: {exported.engine} {exported.precision}") + html.table(
            ("tier", "n", "largest deviation", "smallest atol"), rows
        )


class InstrumentedFiles(ModelResult):
    """A twin with fault ports as files, and its sites."""

    record: TwinFiles

    @property
    def twin(self) -> Path:
        """The twin."""
        return Path(self.record.twin)

    @property
    def table(self) -> Path:
        """The site table."""
        return Path(self.record.table)

    @property
    def sites(self) -> pd.DataFrame:
        """One row per site: name, where, kind, block, shape, format, and the tensor in the file."""
        return pd.DataFrame(json_ready(self.record.sites))

    def _repr_html_(self) -> str:
        sites = self.sites
        counts = sites.value_counts(["where", "kind"], sort=False).reset_index().to_dict("records")
        rows = [(row["where"], row["kind"], f"{row['count']:,}") for row in counts]
        return html.heading(f"{len(sites):,} sites; twin: {self.twin}") + html.table(("where", "kind", "sites"), rows)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
