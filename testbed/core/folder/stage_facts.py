"""What a stage reported of itself in the manifest, held to a form."""

from __future__ import annotations

from pydantic import ValidationError

from testbed.core.errors import StaleArtefact
from testbed.core.folder.forms import AnyForm, first_wrong
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.stages import StagedFolder


def facts_of(folder: StagedFolder, stage: str, form: type[AnyForm]) -> AnyForm:
    """Raises StaleArtefact where the stage has not run, or its facts are not of this form."""
    record = folder.record(stage)
    if record is None:
        raise StaleArtefact(f"{folder.path} has no {stage!r} stage yet; run the campaign to the end first")
    try:
        return form.model_validate(record.facts)
    except ValidationError as error:
        raise StaleArtefact(
            f"the facts of stage {stage!r} in {folder / MANIFEST} are not as it writes them ({first_wrong(error)});"
            f" {folder.again(stage)}"
        ) from error
