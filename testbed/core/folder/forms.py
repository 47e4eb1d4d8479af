"""Small JSON files of a run folder, held to a form: whoever reads one gets typed values, or one line that says what is
wrong with which file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.core.errors import StaleArtefact
from testbed.core.folder.parsing import read_json


class Form(BaseModel):
    """Types as they are written, none converted; keys of later versions are let through."""

    model_config = ConfigDict(strict=True, frozen=True)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, in the order of the fields; a field that was not given is left out."""
        return self.model_dump(exclude_unset=True)


AnyForm = TypeVar("AnyForm", bound=Form)


def read_form(path: Path, form: type[AnyForm], what: str, fix: str) -> AnyForm:
    """The file's content. what: that it should be ("a tiers file"); fix: what to do otherwise.

    Raises StaleArtefact, naming the file and the value, for a missing or damaged one.
    """
    value = read_json(path, what, fix)
    try:
        return form.model_validate(value)
    except ValidationError as error:
        raise StaleArtefact(f"{path} is not {what} ({first_wrong(error)}); {fix}") from error


def first_wrong(error: ValidationError) -> str:
    """What is wrong first, in a few words: where, and why."""
    first = error.errors(include_url=False, include_input=False)[0]
    where, message = ".".join(map(str, first["loc"])), first["msg"]
    if first["type"] == "missing":
        return f"{where} is missing"
    why = message[:1].lower() + message[1:]
    return f"{where}: {why}" if where else why
