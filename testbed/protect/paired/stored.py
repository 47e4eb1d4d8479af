"""What protection bought, as the folder of a campaign with a [protect] table keeps it."""

from __future__ import annotations

from pydantic import ValidationError

from testbed.core.errors import StaleArtefact
from testbed.core.folder.places import COMPARISON
from testbed.core.folder.runfolder import RunFolder
from testbed.protect.paired.record import ProtectionComparison

COMPARED = f"{COMPARISON}/comparison.json"


def read_comparison(folder: RunFolder) -> ProtectionComparison | None:
    """The comparison of a campaign's folder; None where there is none. Raises StaleArtefact if edited."""
    if folder.record(COMPARISON) is None:
        return None
    folder.verify(COMPARISON)
    try:
        return ProtectionComparison.model_validate_json((folder / COMPARED).read_bytes())
    except ValidationError as error:
        raise StaleArtefact(f"{folder / COMPARED} is not of this version; {folder.again(COMPARISON)}") from error
