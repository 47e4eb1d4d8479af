"""What the parts of a summary have in common."""

from __future__ import annotations

from pydantic import ConfigDict

from testbed.core.folder.forms import Form


class SummaryPart(Form):
    """A part of the summary. Keys that another version writes are kept; what older versions lack has a default."""

    model_config = ConfigDict(extra="allow")
