"""A campaign's claim to its run folder, and the spec that is recorded there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.campaign.facts import check_facts
from testbed.campaign.files import PROXY, STATUS, STORE
from testbed.campaign.results.store import ResultLog
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.spec.protect import ProtectSpec
from testbed.core.errors import UsageError
from testbed.core.folder.files import write_json
from testbed.core.folder.manifest import CAMPAIGN
from testbed.core.folder.places import (
    ASKED,
    COMPARISON,
    PROTECTED_CAMPAIGN,
    PROTECTED_MODEL,
    SOURCES,
    placeless,
    portable,
    with_sources,
)
from testbed.core.folder.runfolder import LOCK, RunFolder, current_argv

log = logging.getLogger(__name__)

_UNSET = "not set"
_TOLD = 8  # settings in a line
_LONGEST = 60  # characters of a value


def claimed(path: Path, spec: CampaignSpec, *, redo: bool = False, fresh: bool = False) -> RunFolder:
    """The folder for this campaign, new or begun. Raises UsageError when it holds something else, StaleArtefact when its
    manifest was damaged (unless only a stage was, and ``redo`` says that one is to be forgotten).

    A campaign of other settings that has run no fault gives way to this one; whatever it is, with ``fresh``. Its files
    are removed by `clean`, once the folder is locked.

    Where the model and the data lie is no part of what a campaign is, so that a copied folder goes on on another
    machine: their content is checked by the stages that read them.
    """
    wanted, identity = placeless(spec.identity()), portable(spec.identity())
    if path.is_dir() and (held := RunFolder(path)).manifest:
        if held.kind != CAMPAIGN:
            raise UsageError(
                f"{path} holds a {held.kind} ({held.manifest['name']!r}), not a campaign; choose another folder"
                " with --run"
            )
        held_settings = _settings(held.manifest["spec"])
        if fresh:
            held.restart(spec.name, identity, current_argv())
            return held
        if held_settings != wanted:
            return _respecified(held, spec, wanted, held_settings)
    elif fresh and path.is_dir() and not set(path.iterdir()) <= {path / LOCK}:
        raise UsageError(f"{path} is not empty and holds no run: --fresh removes nothing there; choose another folder")

    def same(recorded: Any) -> bool:
        return _settings(recorded) == wanted

    return RunFolder.claimed(path, CAMPAIGN, spec.name, identity, current_argv(), same, redo=redo)


def clean(folder: RunFolder) -> None:
    """Removes what a campaign left that has given way to another one. The folder is locked."""

    def others() -> Iterator[str]:
        yield from (STATUS, SOURCES, PROXY, ASKED)
        protected = (f"{part}/**/*" for part in (PROTECTED_MODEL, PROTECTED_CAMPAIGN, COMPARISON))
        for pattern in (f"{STORE}/*", "plan/round-*", *protected):
            yield from (str(file.relative_to(folder.path)) for file in folder.path.glob(pattern) if file.is_file())

    folder.clean(others)


def note_protect(folder: RunFolder, protect: ProtectSpec | None) -> None:
    """Says in the folder what was asked for beyond the campaign, for whoever asks how far it is. The folder is locked."""
    if protect is None:
        (folder / ASKED).unlink(missing_ok=True)
    else:
        write_json(folder / ASKED, protect.model_dump(mode="json"))


def _respecified(
    held: RunFolder, spec: CampaignSpec, wanted: Mapping[str, Any], recorded: Mapping[str, Any]
) -> RunFolder:
    """The folder for other settings, if no fault was run there. Raises UsageError with what differs if one was."""
    held.check_records()
    differing = differences(recorded, wanted)
    if "execute" in held.stages or len(ResultLog(held / STORE)):
        raise UsageError(
            f"{held.path} holds another run (campaign {held.manifest['name']!r}), and faults were run in it. What differs"
            f" here: {differing}. Go back to its settings, choose another folder with --run, or give up its rows with"
            " --fresh"
        )
    log.info(
        "%s: begun with other settings, and no fault was run; it is made anew where they count: %s",
        held.path,
        differing,
    )
    held.restart(spec.name, portable(spec.identity()), current_argv(), _kept(wanted, recorded))
    return held


def _kept(wanted: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[str, ...]:
    """Stages that other settings leave as they are: the costly ones. The rest is made again."""
    if any(wanted.get(key) != recorded.get(key) for key in ("model", "data", "seed")):
        return ()
    ours, other = wanted["engine"], recorded.get("engine", {})
    if wanted["model"].get("onnx") is not None:
        return ("export.model", "golden") if ours == other else ("export.model",)
    return ("train", "golden") if ours["threads"] == other.get("threads") else ("train",)


def _settings(recorded: Any) -> dict[str, Any]:
    """The settings of a recorded spec, without any place; as they are written where they are those of another
    version."""
    try:
        return placeless(parse_spec(recorded).identity())
    except UsageError:
        return placeless(recorded) if isinstance(recorded, dict) else {}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The settings that differ, for people: "tiers.images: [16, 16] -> [8, 8]; seed: 1 -> 2"."""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in dict.fromkeys((*before, *after)) if before.get(key, _UNSET) != after.get(key, _UNSET)]
    changes = [f"{key}: {before.get(key, _UNSET)} -> {after.get(key, _UNSET)}" for key in keys[:_TOLD]]
    return "; ".join(changes) + (f"; and {len(keys) - _TOLD} more" if len(keys) > _TOLD else "")


def _flat(values: Any, key_path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as short JSON); tables in lists are numbered, as --set numbers them."""
    if isinstance(values, Mapping) or (isinstance(values, list) and any(isinstance(item, Mapping) for item in values)):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from _flat(value, f"{key_path}.{key}" if key_path else str(key))
    elif values is not None:
        text = json.dumps(values)
        yield key_path, text if len(text) <= _LONGEST else text[: _LONGEST - 4] + " ..."


def recorded_spec(folder: RunFolder) -> CampaignSpec:
    """The spec a campaign was begun with. Raises UsageError for another kind of folder, StaleArtefact where what the stages
    report of themselves is not as they write it."""
    if folder.kind != CAMPAIGN:
        raise UsageError(f"{folder.path} holds no campaign but a {folder.kind}")
    check_facts(folder)
    return parse_spec(with_sources(folder.manifest["spec"], folder.path), str(folder.path))
