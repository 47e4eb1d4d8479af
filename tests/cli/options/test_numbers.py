"""Every number that any command takes has bounds: found by walking the commands, so a new option is tested too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from testbed.cli.commands.results.sweep import Tolerances
from testbed.cli.main import cli
from testbed.cli.options.numbers import Number, Whole
from testbed.cli.options.types import CountsOption, GridOption, ImageRange

_WHOLE = ("1e9", "4294967296", "9" * 20, "9" * 5000, "-" + "9" * 5000, "0x10", "nan", "")
_REAL = ("nan", "inf", "-inf", "1e39", "-1e39", "1e308", "1e999", "9" * 5000, "")
_NUMBERS = (Whole, Number, CountsOption, GridOption, ImageRange, Tolerances)


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


PARAMETERS = [
    pytest.param(path, parameter, id=f"{' '.join(path)} {parameter.name}")
    for path, command in _commands(cli)
    for parameter in command.params
    if isinstance(parameter.type, (*_NUMBERS, click.types.IntParamType, click.types.FloatParamType))
    and not getattr(parameter, "count", False)
]


def test_the_walk_finds_what_there_is() -> None:
    found = {parameter.id for parameter in PARAMETERS}
    assert {
        "bench threads",
        "campaign run workers",
        "campaign plan margin",
        "train epochs",
        "fault replay fault_id",
    } <= found
    assert {"sweep atol", "golden record images", "bench batches", "campaign ber rates"} <= found


@pytest.mark.parametrize(("path", "parameter"), PARAMETERS)
def test_numbers_beyond_any_use_are_refused(path: tuple[str, ...], parameter: click.Parameter) -> None:
    kind = parameter.type
    assert isinstance(kind, _NUMBERS), "a number without bounds; take one of testbed.cli.options.numbers"
    for text in _REAL if isinstance(kind, (Number, GridOption, Tolerances)) else _WHOLE:
        given = f"0:{text}" if type(kind) is ImageRange else text
        with pytest.raises(click.BadParameter) as caught:
            kind.convert(given, parameter, None)
        assert "\n" not in caught.value.message


@pytest.mark.parametrize(("path", "parameter"), PARAMETERS)
def test_what_is_usual_is_taken(path: tuple[str, ...], parameter: click.Parameter) -> None:
    default: Any = parameter.default
    if isinstance(default, (int, float, str, tuple)):
        assert parameter.type.convert(default, parameter, None) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "x", "--threads", "1000000"),
        ("campaign", "run", "x.toml", "--workers", "1000000"),
        ("campaign", "plan", "x.toml", "--confidence", "1e-300"),
        ("campaign", "plan", "x.toml", "--confidence", "0.9999999999999999"),
        ("bench", "x", "--batch", "1,1000000000"),
    ],
)
def test_a_command_refuses_them_in_one_line(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: Invalid value for '{arguments[-2]}'")
