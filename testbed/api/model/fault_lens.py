"""The fault lens from Python: what stored faults do inside, one block by block, and many of a campaign together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from testbed.api.progress import ProgressCallback, steps_of
from testbed.api.records import StudyResult
from testbed.core.words import html
from testbed.core.words.text import percent_interval

if TYPE_CHECKING:
    from testbed.sensitivity.campaign_lens.record import LensModel, LensRecord


class FaultView(StudyResult):
    """A stored fault's golden and faulty run in class space."""

    @property
    def blocks(self) -> pd.DataFrame:
        """One row per state: deviation of what the head reads, class and rank of the label without and with the fault."""
        rows = [{**block, "tokens": len(block["tokens"])} for block in self.record["blocks"]]
        return pd.DataFrame(rows)

    @property
    def tokens(self) -> pd.DataFrame:
        """One row per state and token that the fault changed: deviation, projected class without and with it."""
        return pd.DataFrame(
            [{"after": block["after"], **token} for block in self.record["blocks"] for token in block["tokens"]]
        )

    def _repr_html_(self) -> str:
        record = self.record
        title = f"Fault {record['fault_id']}: {record['op']} at {record['site']}, image {record['image_id']}"
        rows = [
            (b["after"], len(b["tokens"]), b["deviation"], f"{b['golden_class']} -> {b['faulty_class']}")
            for b in record["blocks"]
        ]
        says = ", ".join(
            f"{name.replace('_', ' ')} {record[name]}"
            for name in ("enters", "takes_over", "repaired", "absorbed")
            if record[name]
        )
        return html.heading(title) + html.table(("after", "tokens", "deviation", "class"), rows) + html.paragraph(says)


def examine_fault(folder: str | os.PathLike[str], fault: int, image: str | None = None) -> FaultView:
    """Look at what a stored fault does inside the model, through the model's own norm and head.

    Args:
        folder: A campaign's run folder.
        fault: Number of the fault.
        image: The image of a fault that acts on all of them. Default: the first named one.

    Returns:
        Where the fault enters, takes over, is repaired or absorbed, with a data frame of states and one of tokens.

    Raises:
        UsageError: For a folder without a campaign of a model of the testbed, and a fault or image that it does not have.

    Example:
        ```py
        view = testbed.examine_fault("runs/digits", 4711)
        print(view.blocks)
        ```
    """
    from testbed.sensitivity.fault_lens import look_through

    return FaultView(look_through(Path(folder), fault, image).to_json())


@dataclass(frozen=True, eq=False)
class CampaignView(StudyResult):
    """A campaign's faults through the lens.

    Attributes:
        content: The record with fields instead of keys: `view.content.models[0].groups[0].absorbed.low`.
    """

    content: LensRecord

    @property
    def groups(self) -> pd.DataFrame:
        """One row per fault model and group (all, kind, bit_class, block, outcome): shares absorbed, taken over and repaired,
        mean and median depth, each with its interval."""
        from testbed.sensitivity.campaign_lens.files import group_rows

        return pd.DataFrame(list(group_rows(self.content)))

    @property
    def depths(self) -> pd.DataFrame:
        """One row per fault model, group and depth: the share absorbed by then, with its interval."""
        return pd.DataFrame(
            [
                {**_of(model), "by": group.by, "value": group.value, "depth": point.depth, **point.share.to_json()}
                for model in self.content.models
                for group in model.groups
                for point in group.within
            ]
        )

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per fault model, class of bits and event: does the rank of the true class predict it? Areas under the ROC
        curve with their intervals."""
        return pd.json_normalize(
            [_of(model) | entry.to_json() for model in self.content.models for entry in model.predictions]
        )

    @property
    def bands(self) -> pd.DataFrame:
        """One row per fault model, class of bits and band of ranks: rates of all stored rows, with their intervals."""
        return pd.json_normalize([_of(model) | band.to_json() for model in self.content.models for band in model.bands])

    def _repr_html_(self) -> str:
        rows = [
            (row["where"], row["op"], row["by"], "" if row["value"] is None else row["value"], row["n"], *_shares(row))
            for row in self.groups.to_dict("records")
        ]
        heading = html.heading(f"Fault lens over {self.content.name}, in %")
        return heading + html.table(("in", "fault", "by", "", "n", "absorbed", "taken over", "repaired"), rows)


def _of(model: LensModel) -> dict[str, Any]:
    return {"where": model.where, "op": model.op, "pattern": model.pattern}


def _shares(row: dict[Any, Any]) -> list[str]:
    names = ("absorbed", "taken_over", "repaired")
    return [percent_interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in names]


def examine_campaign(
    folder: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    sample: int = 500,
    seed: int = 0,
    where: Literal["activation", "weight"] | None = None,
    op: str | None = None,
    progress: ProgressCallback | None = None,
) -> CampaignView:
    """Say of a finished campaign's faults how deep they go inside the model, and what becomes of them.

    A sample of stored faults is looked at as `examine_fault` does, drawn by outcome and weighed back to the campaign's
    population. All stored rows tell whether the rank of the true class at the injected block predicts the outcome.

    Args:
        folder: A finished campaign's run folder.
        to: Folder for `lens.json`, two CSV files and a picture. Default: the campaign's, where its page shows them.
        sample: Faults to look at, of each fault model.
        seed: Of the sample and of the resampling.
        where: Only faults in activations or in weights. Default: both.
        op: Only faults of this operation, such as `"flip"`. Default: all.
        progress: Called with a `Snapshot` now and then.

    Returns:
        Depths, shares and areas with their intervals, as data frames.

    Raises:
        UsageError: For a folder without a campaign of a model of the testbed in floating point, and where no fault is left.
        StaleArtefact: For a campaign that is not finished or whose files were changed.

    Example:
        ```py
        view = testbed.examine_campaign("runs/digits", where="activation", op="flip")
        print(view.groups)
        ```
    """
    from testbed.sensitivity.campaign_lens.files import lens_campaign
    from testbed.sensitivity.campaign_lens.study import LensSettings

    steps = steps_of(progress, "fault lens")
    settings = LensSettings(sample, seed, where, op)
    record = lens_campaign(
        Path(folder), settings, None if to is None else Path(to), lambda total: steps(total, "images and faults")
    )
    return CampaignView(record.to_json(), record)
