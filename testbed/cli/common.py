"""What the commands share: options, output, and errors told in one line. Imports nothing heavy."""

from __future__ import annotations

import errno
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from testbed.cli.bugs import concerns
from testbed.cli.groups import usage_line
from testbed.cli.signals import stopped_by
from testbed.core.errors import SeveralErrors, TestbedError
from testbed.core.json_types import json_ready
from testbed.core.words.text import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from testbed.models.vit import ViT
    from testbed.train.record import EpochRecord

Command = TypeVar("Command", bound=Callable[..., Any])

_INTERRUPTED = "interrupted; run the same command again to start over or go on"
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Failure(click.ClickException):
    """Ends the command: ``error: <one line>`` on stderr, and this exit status."""

    def __init__(self, message: str, exit_code: int, lines: bool = False) -> None:
        """Takes the message. lines: whether the message is several, one for each thing that is wrong."""
        whole = message.split("\n") if lines else [" ".join(message.splitlines())]
        super().__init__("\n".join(map(visible, whole)))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file or sys.stderr)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns everything a user can cause into a ``Failure``; a bug stays what it is, for `testbed.cli.bugs`.

    A command that knows how to go on after Ctrl-C says so by raising ``KeyboardInterrupt("resume with: ...")``.
    """
    try:
        yield
    except TestbedError as error:
        if stopped_by() == signal.SIGINT:  # a library has made another error of it, and we a line of that
            raise Failure(_INTERRUPTED, INTERRUPTED) from error
        raise Failure(str(error), error.exit_code, isinstance(error, SeveralErrors)) from error
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise Failure(usage_line(error), error.exit_code) from error
    except KeyboardInterrupt as error:
        raise Failure(f"interrupted; {error}" if str(error) else _INTERRUPTED, INTERRUPTED) from error
    except EOFError as error:  # click would take it for the end of what is typed, and we ask nothing
        raise RuntimeError(f"EOFError: {error}") from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output has left: click ends quietly
            raise
        raise Failure(str(error), TestbedError.exit_code) from error


def example(*lines: str) -> str:
    """The ``epilog`` of a command's help: examples, each on a line of its own, or on several as a shell takes them."""
    return "\b\nExample:\n" + "\n".join(f"  {part}" for line in lines for part in _fitted(line))


def _fitted(line: str, width: int = 74) -> list[str]:
    """``line`` in parts that fit 80 columns with click's indents: broken before options, ended by a backslash."""
    parts: list[str] = []
    for word in re.split(r" (?=--)", line):
        if parts and len(f"{parts[-1]} {word}") <= width:
            parts[-1] += f" {word}"
        else:
            parts.append(f"    {word}" if parts else word)
    return [f"{part} \\" for part in parts[:-1]] + parts[-1:]


def json_option(command: Command) -> Command:
    """``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def run_option(required: bool = True) -> Callable[[Command], Command]:
    """``--run DIR``, passed on as ``run`` (a Path; it need not exist)."""
    folder = click.Path(file_okay=False, path_type=Path)

    def noted(_: click.Context, __: click.Parameter, run: Path | None) -> Path | None:
        if run is not None:
            concerns(run)
        return run

    return click.option(
        "--run", type=folder, required=required, metavar="DIR", callback=noted, help="The run's folder."
    )


def console(stderr: bool = False) -> Console:
    """A console: stdout for results, stderr for progress. Wide enough for tables when piped."""
    from testbed.core.words.console import plain_console

    stream = sys.stderr if stderr else sys.stdout
    return plain_console(stderr, width=None if stream.isatty() else 140)


def say(line: str) -> None:
    """One line of progress on stderr, with nothing in it that a terminal obeys."""
    click.echo(visible(line), err=True)


def emit_document(text: str) -> None:
    """A document on stdout, as a file would hold it, with nothing in it that a terminal obeys."""
    for line in text.splitlines():
        click.echo(visible(line))


def emit(value: Any, as_json: bool, text: Callable[[], RenderableType | list[str]]) -> None:
    """The command's result on stdout: ``value`` as one JSON object, or what ``text`` makes for people.

    text: makes something that is laid out, or a line, or lines, of any length. A string is always one line, whatever
    names are in it.
    """
    if as_json:
        click.echo(json.dumps(json_ready(value), indent=1, allow_nan=False))
        return
    rendered = text()
    if isinstance(rendered, (str, list)) and not sys.stdout.isatty():
        for line in [rendered] if isinstance(rendered, str) else rendered:
            click.echo(visible(line))
        return
    from testbed.cli.tables.prose import stacked

    console().print(stacked(rendered if isinstance(rendered, list) else [rendered]), crop=False)


def say_epoch(epoch: int, model: ViT, record: EpochRecord) -> None:
    """A line per epoch, where no progress bar is shown."""
    say(
        f"epoch {epoch}: loss {record.train_loss:.4f}, validation {100 * record.validation_accuracy:.2f} %,"
        f" {record.seconds:.1f} s"
    )
