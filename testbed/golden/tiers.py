"""Which recorded images are how sure: confidence tiers of a run folder's golden, kept in tiers.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import JsonValue, ValidationError

from testbed.analysis.outputs.confidence import TierEdges, Tiers, tiers_from_logits
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import write_json
from testbed.core.folder.forms import Form, first_wrong
from testbed.core.folder.manifest import MANIFEST
from testbed.golden.recorded import IMAGES, Golden, is_campaign, open_golden, working_in
from testbed.golden.reference import LOGITS

STAGE = "tiers"
COMMAND = "testbed tiers"
TIERS = "tiers.json"


@dataclass(frozen=True)
class RecordedTier:
    """The tier (low, high]. images: ids of those in it."""

    low: float
    high: float
    images: list[str]


@dataclass(frozen=True)
class RecordedTiers:
    """The content of tiers.json: numbers of correct and incorrect images, the tiers, and the ids of the others."""

    correct: int
    incorrect: int
    tiers: list[RecordedTier]
    incorrect_images: list[str]

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


class _RecordedEdges(Form):
    edges: list[float]


def golden_tiers(golden: Golden, edges: TierEdges) -> Tiers:
    """Tiers over the correct predictions; positions are rows of the golden. Raises UsageError naming NaN images."""
    return tiers_from_logits(golden.logits, golden.labels, edges, golden.ids)


def record_tiers(path: Path, edges: TierEdges) -> RecordedTiers:
    """Writes tiers.json and returns its content. A campaign's folder is only read."""
    if is_campaign(path):
        golden = open_golden(path)
        return _recorded(golden, golden_tiers(golden, edges))
    with working_in(path) as run:
        golden = Golden(run)
        recorded = _recorded(golden, golden_tiers(golden, edges))
        inputs = {
            "logits": golden.hashes[LOGITS],
            "images": golden.hashes[IMAGES],
            "edges": list(edges.edges),
        }
        run.folder.stage(STAGE, inputs, [TIERS], lambda: write_json(path / TIERS, recorded.to_json()), command=COMMAND)
    return recorded


def _recorded(golden: Golden, tiers: Tiers) -> RecordedTiers:
    ids = golden.ids
    return RecordedTiers(
        len(tiers.correct),
        len(tiers.incorrect),
        [
            RecordedTier(low, high, [ids[row] for row in rows])
            for (low, high), rows in zip(tiers.edges.bounds, tiers.positions, strict=True)
        ],
        [ids[row] for row in tiers.incorrect],
    )


def recorded_edges(golden: Golden) -> TierEdges | None:
    """The edges that ``testbed tiers`` was last run with (or the campaign's); None before. Raises StaleArtefact where
    the manifest's are none."""
    folder = golden.run.folder
    record = folder.manifest["stages"].get(STAGE)
    if record is None:
        return None
    try:
        return TierEdges(tuple(_RecordedEdges.model_validate(record["inputs"]).edges))
    except (ValidationError, UsageError) as error:
        wrong = first_wrong(error) if isinstance(error, ValidationError) else error
        raise StaleArtefact(f"{folder.path / MANIFEST}: stage {STAGE!r}: {wrong}; {folder.again(STAGE)}") from error


def edges_of(tiers: int | None, edges: str | None) -> TierEdges:
    """Edges from the options --tiers and --edges, of which one may be given; 4 tiers without. Raises UsageError."""
    if edges is None:
        return TierEdges.preset(4 if tiers is None else tiers)
    if tiers is not None:
        raise UsageError("give --tiers or --edges, not both")
    try:
        return TierEdges(tuple(float(edge) for edge in edges.split(",")))
    except ValueError as error:
        raise UsageError(f"--edges {edges}: write numbers separated by commas, such as .25,.5,.75,1") from error
