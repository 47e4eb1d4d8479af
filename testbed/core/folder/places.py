"""Where the model and the data named in a spec lie: paths, which are a machine's own and no part of what a run is.

A run folder records its spec with the last part of each path only, and the full paths in a file of their own
(``sources.json``), which may be deleted: nothing that is finished needs it. All functions take and return spec values as
they are in TOML or JSON.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from testbed.core.folder.files import write_json
from testbed.core.folder.parsing import json_value

SOURCES = "sources.json"
ASKED = "protect.json"
"""Of a campaign's folder: the [protect] table that was asked for."""
PROTECTED_MODEL = "protected/model"
"""Of a campaign's folder: the model that its [protect] table asked for."""
PROTECTED_CAMPAIGN = "protected/campaign"
"""Of a campaign's folder: the campaign of that model, on the same faults."""
COMPARISON = "comparison"
"""Of a campaign's folder: what that protection bought."""
_PATHS = (("model", "run"), ("model", "onnx"), ("data", "root"))
_DATA = (("data", "name"), ("engine", "calibration_data"), ("protect", "calibration_data"))  # imagefolder:PATH
_PARTS = ("train", "test", "val")  # a data set's own folders: their name alone says nothing


def near(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Replaces relative paths that do not exist here but in ``folder``, those there; all others stay as they are
    written."""

    def nearby_path(text: str) -> str:
        path = Path(text).expanduser()
        return str(folder / path) if not path.exists() and (folder / path).exists() else text

    placed = _with_each(values, nearby_path)
    for key in ("preprocess", "classes"):  # names, or files whose content will be kept
        text = _text_value(placed, "data", key)
        if text is not None and Path(text).suffix:
            placed["data"][key] = nearby_path(text)
    return placed


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """Relative paths are those of the current folder."""
    return _with_each(values, lambda text: os.path.abspath(Path(text).expanduser()))


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """A value without the folders of this machine: the last part of each path."""
    return _with_each(values, last_part)


def placeless(values: Mapping[str, Any]) -> dict[str, Any]:
    """A value without any path: what two specs have in common that differ only in where things lie."""
    changed = _with_each(values, lambda text: "")
    if isinstance(changed.get("data"), dict):
        changed["data"].pop("root", None)
    return changed


def last_part(path: str) -> str:
    """The name by which people know a path: "photos" of /home/me/photos, "photos/test" of /home/me/photos/test."""
    parts = PurePath(path).parts
    return str(PurePath(*parts[-2:] if len(parts) > 1 and parts[-1] in _PARTS else parts[-1:]))


def data_name(name: str) -> str:
    """A data set's name without the folders of this machine: "imagefolder:photos"."""
    kind, colon, path = name.partition(":")
    return f"{kind}:{last_part(path)}" if path else kind + colon


def write_sources(folder: Path, values: Mapping[str, Any]) -> None:
    """Records the full paths of ``values`` in a run folder."""
    full = absolute(values)
    kept: dict[str, dict[str, str]] = {}
    for table, key in (*_PATHS, *_DATA):
        text = _text_value(full, table, key)
        if text is not None and ((table, key) not in _DATA or ":" in text):
            kept.setdefault(table, {})[key] = text
    if kept and _read(folder) != kept:
        write_json(folder / SOURCES, kept)


def with_sources(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``values`` as recorded in a run folder, with the full paths as far as they are recorded too."""
    filled = copy.deepcopy(dict(values))
    for table, paths in _read(folder).items():
        if isinstance(filled.get(table), dict) and not _leaves_name_to_model(filled, table):
            filled[table].update(paths)
    return filled


def _leaves_name_to_model(values: Mapping[str, Any], table: str) -> bool:
    """Does it speak of the data set that the model's run folder names? Its place is that folder's to say."""
    return table == "data" and values["data"].get("name") is None


def _read(folder: Path) -> dict[str, dict[str, str]]:
    """Nothing where there is no such file, or none that can be read: it is only a help."""
    try:
        kept = json_value((folder / SOURCES).read_bytes())
    except (OSError, ValueError):
        return {}
    paths: dict[str, dict[str, str]] = {}
    for table, key in (*_PATHS, *_DATA):
        text = _text_value(kept, table, key) if isinstance(kept, dict) else None
        if text is not None:
            paths.setdefault(table, {})[key] = text
    return paths


def _with_each(values: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(values))
    for table, key in _PATHS:
        text = _text_value(changed, table, key)
        if text is not None:
            changed[table][key] = change(text)
    for table, key in _DATA:
        kind, _, path = (_text_value(changed, table, key) or "").partition(":")
        if path:
            changed[table][key] = f"{kind}:{change(path)}"
    return changed


def _text_value(values: Mapping[str, Any], table: str, key: str) -> str | None:
    part = values.get(table)
    text = part.get(key) if isinstance(part, dict) else None
    return text if isinstance(text, str) and text else None


def plain_campaign(folder: Path) -> Path | None:
    """The folder of the campaign whose [protect] table asked for the campaign in ``folder``; None of any other."""
    home = folder.parent.parent
    return home if folder == home / PROTECTED_CAMPAIGN and (home / ASKED).is_file() else None
