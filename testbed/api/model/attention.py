"""Attention from Python: where a model looks, and where it looks while a stored fault acts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from testbed.api.progress import ProgressCallback, steps_of
from testbed.api.records import StudyResult
from testbed.core.errors import UsageError
from testbed.core.words import html


class AttentionResult(StudyResult):
    """Attention of a model, or of one stored fault in it."""

    @property
    def distances(self) -> pd.DataFrame:
        """One row per block and head: attention distance in pixels, with the interval of its mean. Empty for a fault."""
        return pd.DataFrame(list(self.record["distances"]))

    @property
    def images(self) -> pd.DataFrame:
        """One row per drawn image: label, top-1, and the patch that reaches the classifier most."""
        return pd.DataFrame(list(self.record["images"]))

    @property
    def moved(self) -> pd.DataFrame:
        """One row per block: the share of attention that the fault moved elsewhere. Empty without a fault."""
        fault = self.record["fault"]
        return pd.DataFrame([] if fault is None else list(fault["blocks"]))

    def _repr_html_(self) -> str:
        heading = html.heading(f"Attention of {Path(self.record['run']).name}")
        fault = self.record["fault"]
        if fault is not None:
            says = html.paragraph(
                f"fault {fault['fault_id']}: {fault['op']} at {fault['site']}, top-1 {fault['golden_top1']} ->"
                f" {fault['faulty_top1']}"
            )
            return heading + says + html.table(("block", "moved"), [(b["block"], b["moved"]) for b in fault["blocks"]])
        rows = [(d["block"], d["head"], f"{d['mean_px']:.2f}", d["images"]) for d in self.record["distances"]]
        return heading + html.table(("block", "head", "distance, px", "images"), rows)


def measure_attention(
    folder: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    images: Sequence[str] = (),
    over: int | None = None,
    fault: int | None = None,
    image: str | None = None,
    format: Literal["svg", "png"] = "svg",
    files: bool = False,
    device: str = "cpu",
    progress: ProgressCallback | None = None,
) -> AttentionResult:
    """Look at the attention of a model, or of a campaign's model while one stored fault acts.

    Args:
        folder: Run folder of a model, or of a campaign; with ``fault`` the campaign's.
        to: Folder for the page, the numbers and the pictures. Default: nothing is drawn.
        images: Ids of the test images to draw. Default: the first four.
        over: Measure distances over so many test images, a random choice by class. Default: all.
        fault: Number of a stored fault.
        image: The image of a fault that acts on all of them. Default: the first named one.
        format: Of the pictures.
        files: Also write each picture as a file.
        device: `"cpu"`, `"cuda"` or `"auto"`.
        progress: Called with a `Snapshot` now and then.

    Returns:
        Distances of heads, and what was drawn; of a fault what it moved.

    Raises:
        UsageError: For a folder without model or data, images and faults that it does not have, a model without attention.

    Example:
        ```py
        looks = testbed.measure_attention("runs/digits", over=100)
        print(looks.distances)
        ```
    """
    from testbed.sensitivity.attention_maps.study import PictureOptions, study_attention, study_fault

    options = PictureOptions(None if to is None else Path(to), format, files)
    if fault is not None:
        if images or over is not None:
            raise UsageError("a fault has an image of its own; leave out images and over")
        return AttentionResult(study_fault(Path(folder), fault, image=image, options=options).to_json())
    steps = steps_of(progress, "attention")
    study = study_attention(
        Path(folder),
        image_ids=images,
        over=over,
        options=options,
        device=device,
        progress=lambda total: steps(total, "images"),
    )
    return AttentionResult(study.to_json())
