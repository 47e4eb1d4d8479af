"""Separation fuzziness from Python: of a model, of the average of several, and by epoch of training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.api.model.results import ModelResult
from testbed.api.progress import ProgressCallback, steps_of
from testbed.core.words import html

Folder = str | os.PathLike[str]


class Fuzziness(ModelResult):
    """How far each layer separates the classes; the lower D, the better."""

    @property
    def layers(self) -> pd.DataFrame:
        """One row per layer: name and fuzziness; `std` over several models. Empty where only epochs were read."""
        return pd.DataFrame(self.to_json().get("layers", []))

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per recorded epoch and layer: epoch, name, fuzziness, and `std` over several models."""
        rows = [{"epoch": row["epoch"], **layer} for row in self.to_json().get("epochs", []) for layer in row["layers"]]
        return pd.DataFrame(rows)

    @property
    def fits(self) -> dict[str, Any]:
        """The exponential and the law of separation, fitted to the blocks; empty where only epochs were read."""
        return dict(self.to_json().get("fits", {}))

    def _repr_html_(self) -> str:
        table = self.layers if len(self.layers) else self.epochs
        rows = [[f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in table.to_numpy()]
        return html.heading("Separation fuzziness D") + html.table(list(table.columns), rows)


def measure_fuzziness(
    models: Folder | Sequence[Folder],
    *,
    layers: Sequence[str] | None = None,
    images: int | None = None,
    weighted: bool = False,
    per_epoch: bool = False,
    to: Folder | None = None,
    threads: int = 1,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> Fuzziness:
    """Measure separation fuzziness D = Tr(Sw pinv(Sb)) of every layer over the test images.

    Args:
        models: The run folder of a model, or those of several whose average is told.
        layers: Of "pixels", "block.0", "block.1", ..., "logits". Default: all.
        images: So many test images, a random choice by class. Default: all.
        weighted: Whether classes weigh by their number of images, not equally.
        per_epoch: Whether to read what `train_model(fuzziness_every=...)` recorded; nothing is measured.
        to: Folder for tables and pictures of an average.
        threads: CPU threads.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        progress: Called with a `Snapshot` now and then.

    Returns:
        Fuzziness of each layer with two fits, or by epoch.

    Raises:
        UsageError: For a folder without model or data, a layer that does not exist, and models that are not alike.
        StaleArtefact: For files that were changed.

    Example:
        ```py
        print(testbed.measure_fuzziness("runs/digits", images=200).layers)
        ```
    """
    from testbed.core.errors import UsageError
    from testbed.golden.reference import compute_device
    from testbed.sensitivity.fuzziness import average as averages
    from testbed.sensitivity.fuzziness.artefacts import measure_run
    from testbed.sensitivity.fuzziness.records import AverageRecord, FuzzinessRecord, recorded_epochs
    from testbed.train.seeding import process_state_kept

    folders = [Path(models)] if isinstance(models, (str, os.PathLike)) else [Path(model) for model in models]
    averaged = not isinstance(models, (str, os.PathLike))
    if to is not None and (not averaged or per_epoch):
        raise UsageError("to= is for the measured average of several models")
    if averaged:
        averages.check_alike(folders)
    if per_epoch:
        return Fuzziness(recorded_epochs(folders, layers, averaged).record)
    steps = steps_of(progress, "fuzziness")
    with process_state_kept(compute_device(device), threads):
        measured = [
            measure_run(
                folder,
                layers=layers,
                images=images,
                weighted=weighted,
                device=device,
                progress=lambda total: steps(total, "images"),
            )
            for folder in folders
        ]
    if not averaged:
        return Fuzziness(FuzzinessRecord.of(measured[0]))
    mean = averages.average(measured)
    epochs = averages.recorded_average(folders) if averages.all_recorded(folders) else []
    files = averages.write_average(Path(to), mean, epochs) if to is not None else []
    return Fuzziness(AverageRecord.of(mean, epochs, files))
