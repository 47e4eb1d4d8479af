"""What a [protect] table adds to a campaign's folder, and where."""

from __future__ import annotations

from pathlib import Path

ASKED = "protect.json"
"""Of a campaign's folder: the [protect] table that was asked for."""
PROTECTED_MODEL = "protected/model"
"""Of a campaign's folder: the model that its [protect] table asked for."""
PROTECTED_CAMPAIGN = "protected/campaign"
"""Of a campaign's folder: the campaign of that model, on the same faults."""
COMPARISON = "comparison"
"""Of a campaign's folder: what that protection bought."""


def plain_campaign(folder: Path) -> Path | None:
    """The folder of the campaign whose [protect] table asked for the campaign in ``folder``; None of any other."""
    home = folder.parent.parent
    return home if folder == home / PROTECTED_CAMPAIGN and (home / ASKED).is_file() else None
