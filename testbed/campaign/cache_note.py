"""What a manifest says of a stage, or of a gate, that was not run but taken from the cache."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from testbed.core.folder.forms import Form


class CacheNote(Form):
    """Where it is from. key: of the cache's entry; made: when it was run, UTC, ISO 8601; seconds: that it took then;
    versions: of the testbed and the libraries that it was run with; revision: of the testbed's sources, in a clone."""

    key: str
    made: str
    seconds: Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
    versions: dict[str, str]
    revision: str | None = None

    @property
    def date(self) -> str:
        """Day on which it was run."""
        return self.made[:10]
