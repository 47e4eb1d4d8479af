"""What run folders lie in a folder, each in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from testbed.campaign.results.status import is_locked
from testbed.campaign.summary.record import Summary, load_summary
from testbed.campaign.summary.summarise import SUMMARY
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.manifest import CAMPAIGN, MANIFEST
from testbed.core.folder.runfolder import RunFolder

_DEEPEST = 3  # folders below the one that is named: runs/pruned/eap-keep0.5


RunState = Literal["finished", "running", "interrupted", "damaged"]


@dataclass(frozen=True)
class RunEntry:
    """One run folder.

    Attributes:
        run: Its path.
        kind: "campaign", "train", ...
        name: As its manifest has it.
        model: The model's name, where it is known.
        engine: The engine of a campaign.
        precision: Of its engine.
        state: "finished", "running" or "interrupted"; "damaged" where its manifest or summary cannot be read.
        stage: The last stage that is done.
        faults: How many were run, of a finished campaign.
        rate: SDC-1 of its first fault model of the whole model, with low and high; none where nothing was measured.
        op: That fault model: "flip in activations".
        created: When it was begun, ISO 8601.
        problem: Why it is damaged.
    """

    run: str
    kind: str
    name: str
    model: str | None
    engine: str | None
    precision: str | None
    state: RunState
    stage: str | None
    faults: int | None
    op: str | None
    rate: float | None
    low: float | None
    high: float | None
    created: str | None
    problem: str | None = None


def list_run_folders(folder: Path) -> list[RunEntry]:
    """Every run folder in ``folder``, itself included, sorted by path. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name one that holds run folders, such as runs")
    return [_entry(path) for path in sorted(_run_folders(folder, _DEEPEST))]


def _run_folders(folder: Path, deepest: int) -> Iterator[Path]:
    if (folder / MANIFEST).is_file():
        yield folder
        return
    if deepest == 0:
        return
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:  # not ours to read
        return
    for path in inner:
        yield from _run_folders(path, deepest - 1)


def _entry(path: Path) -> RunEntry:
    try:
        folder = RunFolder.existing(path)
        return _readable(path, folder)
    except TestbedError as error:
        empty = dict.fromkeys(
            ("model", "engine", "precision", "stage", "faults", "op", "rate", "low", "high", "created")
        )
        return RunEntry(run=str(path), kind="", name="", state="damaged", problem=str(error), **empty)


def _readable(path: Path, folder: RunFolder) -> RunEntry:
    manifest = folder.manifest
    stages = list(manifest["stages"])
    campaign = manifest["kind"] == CAMPAIGN
    finished = "summary" in stages if campaign else bool(stages)
    state: RunState = "finished" if finished else "running" if is_locked(path) else "interrupted"
    spec = manifest.get("spec") if campaign else None
    engine: Mapping[str, Any] = spec.get("engine", {}) if isinstance(spec, dict) else {}
    headline = _headline(load_summary(path / SUMMARY)) if campaign and finished else _Headline()
    return RunEntry(
        run=str(path),
        kind=str(manifest["kind"]),
        name=str(manifest["name"]),
        model=headline.model,
        engine=engine.get("backend"),
        precision=engine.get("precision"),
        state=state,
        stage=stages[-1] if stages else None,
        faults=headline.faults,
        op=headline.op,
        rate=headline.rate,
        low=headline.low,
        high=headline.high,
        created=manifest.get("created"),
    )


@dataclass(frozen=True)
class _Headline:
    """What a line says of a finished campaign; nothing of others."""

    model: str | None = None
    faults: int | None = None
    op: str | None = None
    rate: float | None = None
    low: float | None = None
    high: float | None = None


def _headline(summary: Summary) -> _Headline:
    model = summary.model.preset or None
    for total in summary.marginals:
        if total.by == "all" and (rate := total.rate("sdc1")):
            noun = "activations" if total.where == "activation" else "weights"
            return _Headline(model, summary.faults, f"{total.op} in {noun}", rate.rate, rate.low, rate.high)
    return _Headline(model, summary.faults)
