"""The options of the commands that train: settings of recipe and model, and the device. Imports nothing heavy."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from testbed.core.errors import UsageError
from testbed.core.folder.parsing import toml_value

Command = TypeVar("Command", bound=Callable[..., Any])


def set_option(command: Command) -> Command:
    """``--set KEY=VALUE``, passed on as ``settings``."""
    return click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe or the model."
    )(command)


def parsed_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Key -> value of ``--set``: a TOML value (number, true, [2, 2]); anything else is a name."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write KEY=VALUE")
        values[key] = _value(text)
    return values


def device_named(name: str) -> str:
    """``name`` of a device, "auto" decided by what is there."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _value(text: str) -> Any:
    try:
        return toml_value(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except ValueError as error:
        raise UsageError(f"--set {text[:40]}: {error}") from error
