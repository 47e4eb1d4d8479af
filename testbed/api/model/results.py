"""Results about one model as objects: its golden, tiers, subset, exports and twins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.core.json_types import json_ready
from testbed.core.words import html


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

    @property
    def images(self) -> int:
        """How many images were recorded."""
        return int(self.to_json()["images"])

    @property
    def accuracy(self) -> float:
        """Accuracy of the model on them, from 0 to 1."""
        return float(self.to_json()["accuracy"])

    @property
    def modules(self) -> list[str]:
        """Modules whose inputs and outputs were recorded."""
        return list(self.to_json()["modules"])

    def _repr_html_(self) -> str:
        recorded = ", ".join(["logits", *self.modules])
        return html.heading("Reference golden") + html.facts(
            {"images": f"{self.images:,}", "accuracy": f"{100 * self.accuracy:.2f} %", "recorded": recorded}
        )


class GoldenVerification(ModelResult):
    """How far an engine's outputs are from the golden."""

    @property
    def passed(self) -> bool:
        """Whether exactly those images are faulty that should be: none, or those of the injected values."""
        return bool(self.record.faulty_images == self.record.expected)

    @property
    def tiers(self) -> pd.DataFrame:
        """One row per confidence tier: images, faulty ones, the largest deviation and the smallest atol that passes."""
        return pd.DataFrame(self.to_json()["tiers"])

    def _repr_html_(self) -> str:
        values = self.to_json()
        verdict = "as it should be" if self.passed else "not as it should be"
        rows = [
            (f"{row['low']:g} to {row['high']:g}", row["n"], row["faulty"], _figure(row["max_abs_diff"]))
            for row in values["tiers"]
        ]
        return html.heading(f"{values['target']} in {values['engine']}: {verdict}") + html.table(
            ("confidence", "images", "faulty", "largest deviation"), rows
        )


class ConfidenceTiers(ModelResult):
    """Correctly classified images by confidence."""

    @property
    def tiers(self) -> pd.DataFrame:
        """One row per tier: low (not in it), high (in it), and the ids of its images."""
        return pd.DataFrame(self.to_json()["tiers"])

    def _repr_html_(self) -> str:
        values = self.to_json()
        rows = [(f"{row['low']:g} to {row['high']:g}", f"{len(row['images']):,}") for row in values["tiers"]]
        title = f"{values['correct']:,} images correct, {values['incorrect']:,} not; of the correct ones"
        return html.heading(title) + html.table(("confidence", "images"), rows)


class ImageSubset(ModelResult):
    """The images that were chosen."""

    @property
    def images(self) -> pd.DataFrame:
        """One row per image: its id, label, and position in the test split."""
        values = self.to_json()
        return pd.DataFrame({"id": values["ids"], "label": values["labels"], "position": values["positions"]})

    def _repr_html_(self) -> str:
        values = self.to_json()
        return html.heading(f"{values['images']:,} images chosen") + html.table(
            ("class", "images"), values["classes"].items()
        )


class ExportedModel(ModelResult):
    """A deployable file, and its parity with the reference golden."""

    @property
    def file(self) -> Path:
        """Path of the file."""
        return Path(self.to_json()["file"])

    @property
    def parity(self) -> pd.DataFrame:
        """One row per confidence tier, the last of all images: n, largest deviation, smallest atol, top-1 agreement."""
        return pd.DataFrame(self.to_json()["parity"])

    def _repr_html_(self) -> str:
        values = self.to_json()
        rows = [
            (row["tier"], row["n"], _figure(row["max_abs_diff"]), _figure(row["smallest_atol"]))
            for row in values["parity"]
        ]
        return html.heading(f"{values['file']}: {values['engine']} {values['precision']}") + html.table(
            ("tier", "n", "largest deviation", "smallest atol"), rows
        )


class InstrumentedFiles(ModelResult):
    """A twin with fault ports as files, and its sites."""

    @property
    def twin(self) -> Path:
        """The twin."""
        return Path(self.to_json()["twin"])

    @property
    def table(self) -> Path:
        """The site table."""
        return Path(self.to_json()["table"])

    @property
    def sites(self) -> pd.DataFrame:
        """One row per site: name, where, kind, block, shape, format, and the tensor in the file."""
        return pd.DataFrame(self.to_json()["sites"])

    def _repr_html_(self) -> str:
        sites = self.sites
        counts = sites.value_counts(["where", "kind"], sort=False).reset_index().to_dict("records")
        rows = [(row["where"], row["kind"], f"{row['count']:,}") for row in counts]
        return html.heading(f"{len(sites):,} sites; twin: {self.twin}") + html.table(("where", "kind", "sites"), rows)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
