"""The recorded fingerprints: one entry per environment, in recorded.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.characterisation.environment import Environment
from tests.characterisation.fingerprint import Fingerprint, differences

FILE = Path(__file__).with_name("recorded.json")
COMMAND = "python -m tests.characterisation.record"


@dataclass(frozen=True)
class Record:
    """``revision``: of the testbed whose rows these are. ``campaigns``: name -> fingerprint."""

    revision: str
    environment: Environment
    campaigns: dict[str, Fingerprint]


def read_records(file: Path = FILE) -> list[Record]:
    return [Record(**values) for values in json.loads(file.read_text())] if file.exists() else []


def write_records(records: list[Record], file: Path = FILE) -> None:
    file.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")


def record_of(environment: Environment, records: list[Record]) -> Record | None:
    """The one of exactly this environment."""
    return next((record for record in records if record.environment == environment), None)


def nearest_record(environment: Environment, records: list[Record]) -> Record:
    """The one whose environment differs in the fewest things."""
    return min(records, key=lambda record: len(differences(record.environment, environment)))
