"""Which shortcuts of the suffix evaluation are on: decided by a gate once, frozen in the manifest, applied by workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from pydantic import JsonValue

from testbed.core.errors import StaleArtefact

Style = Literal["opaque", "ported", "untold"]
STYLES: tuple[Style, ...] = get_args(Style)
SHORTCUTS = ("last", "inside", "rows", "dead")


@dataclass(frozen=True)
class Shortcuts:
    """``style``: segments keep the twin's tensors apart by opaque reshapes, or by idle ports; or by opaque reshapes, and are
    told no more shapes of tensors on the way than the file says itself: engines choose operators by shapes that they know.

    ``last``: in the last block only the tokens that the head looks at. ``inside``: a block is resumed from struck q, k
    and v. ``rows``: a fault that is confined to a token is followed through its block by that token alone. ``dead``:
    faults that cannot reach the output are not run.
    """

    style: Style = "opaque"
    last: bool = True
    inside: bool = True
    rows: bool = True
    dead: bool = True

    def with_(self, **changes: Any) -> Shortcuts:
        return replace(self, **changes)

    def record(self) -> dict[str, JsonValue]:
        return asdict(self)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Shortcuts:
        """Raises StaleArtefact for a record that another version wrote."""
        if set(values) != {f.name for f in fields(cls)} or values["style"] not in STYLES:
            raise StaleArtefact(
                "the manifest's record of suffix replay is of another version;"
                " rerun with `testbed campaign run SPEC --redo gates`"
            )
        return cls(**values)


BARE = Shortcuts(last=False, inside=False, rows=False, dead=False)
"""Whole blocks from the fault's own on."""
