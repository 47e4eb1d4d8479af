"""Specs of campaigns: from a file, from a ready-made one, or from values in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.spec.campaign import load_spec as read_spec
from testbed.campaign.spec.loading import change
from testbed.campaign.spec.ready_made import ready_made


def load_spec(
    source: str | os.PathLike[str] | Mapping[str, Any] | CampaignSpec, changes: Sequence[str] = ()
) -> CampaignSpec:
    """Read and check the spec of a campaign.

    Args:
        source: Path of a TOML file, name of a ready-made spec such as `"digits"`, or the values themselves as a nested
            dictionary. A relative path in a file is one of the current folder or, if nothing is there, of the file's own.
        changes: Values to change, as `--set` writes them: `"engine.backend=openvino"`, `"tiers.images=[4, 4, 4, 4]"`.

    Returns:
        The spec, complete with every default.

    Raises:
        UsageError: For everything that is wrong in it, with the path of each wrong key and the fix.

    Example:
        ```py
        spec = testbed.load_spec("digits", ["engine.backend=openvino", "tiers.images=[4, 4, 4, 4]"])
        print(spec.engine.backend, spec.targets)
        ```
    """
    if isinstance(source, CampaignSpec):
        return source if not changes else parse_spec(_changed(source.model_dump(mode="json"), changes))
    if isinstance(source, Mapping):
        return parse_spec(_changed(_copied(source), changes))
    path = Path(source)
    if path.suffix == "" and not path.exists() and str(source) in ready_made():
        path = ready_made()[str(source)].path
    return read_spec(path, changes)


def write_spec(
    name: str, source: str | None = None, to: str | os.PathLike[str] | None = None, *, schema: bool = False
) -> Path:
    """Write a commented spec for a campaign of that name, to run as it is or to edit.

    Args:
        name: Of the campaign.
        source: The ready-made spec to begin with. Default: the one of that name, or `"digits"`.
        to: The file to write. Default: NAME.toml.
        schema: Whether the JSON schema is written beside it, with which editors complete and check the spec.

    Returns:
        Path of the spec.

    Raises:
        UsageError: For a file that is there already, and for a ready-made spec that there is none of.

    Example:
        ```py
        spec = testbed.load_spec(testbed.write_spec("my-model", "cifar10"))
        ```
    """
    from testbed.campaign.spec.new_spec import write_ready_made

    return write_ready_made(name, source, None if to is None else Path(to), schema).file


def list_specs() -> pd.DataFrame:
    """List the ready-made specs.

    Returns:
        One row per spec: name, what it shows (`about`), the model it needs, and its file.

    Example:
        ```py
        print(testbed.list_specs()[["name", "about"]])
        ```
    """
    from testbed.campaign.spec.new_spec import ready_made_entries

    return pd.DataFrame([asdict(entry) for entry in ready_made_entries()])


def _changed(values: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    for asked in changes:
        change(values, asked)
    return values


def _copied(value: Any) -> Any:
    """Plain dictionaries and lists all the way down, so that changes leave the caller's values alone."""
    if isinstance(value, Mapping):
        return {str(key): _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, (list, tuple)) else value
