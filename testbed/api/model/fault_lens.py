"""The fault lens from Python: what one stored fault does inside, block by block."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from testbed.api.records import StudyResult
from testbed.core.words import html


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
