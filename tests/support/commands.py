"""The command line, called in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from testbed.cli.main import cli


def invoke(*arguments: object) -> Result:
    """Call ``testbed`` with these arguments, of which each becomes a word."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="testbed")


def answer(*arguments: object, exit_code: int = 0) -> Any:
    """Call ``testbed`` with these arguments and --json; return what it answers."""
    return answer_of(invoke(*arguments, "--json"), exit_code)


def answer_of(result: Result, exit_code: int = 0) -> Any:
    """What a command that was called with --json answered."""
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def error_of(result: Result, exit_code: int) -> str:
    """The one line of a command that failed as it should and printed nothing else."""
    line = last_error_of(result, exit_code)
    assert result.stderr == f"{line}\n"
    return line


def last_error_of(result: Result, exit_code: int) -> str:
    """The last line of a command that failed as it should, after what it had logged until then."""
    assert result.exit_code == exit_code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return lines[0]


def strict_json(text: str) -> Any:
    """What the text says in JSON as its standard has it: NaN and infinities are no numbers of it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)
