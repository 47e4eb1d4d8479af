"""Groups of commands, and usage errors that say what may have been meant."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import click

from testbed.core.words.nearest import meant, nearest

_ONNX_FOR_FOLDER = re.compile(r"Directory (?P<file>'.*\.onnx') is a file$")
_NOT_ONE_OF = re.compile(r"'(?P<value>[^']*)' is not one of ")


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])|\n\s*\n")


class CommandGroup(click.Group):
    """Names the nearest of its commands where one is not known; its help says a whole sentence of each."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(no_such_command(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(command)) for name, command in named if command])


class DefaultGroup(CommandGroup):
    """A group whose command ``default`` is meant where none is named: ``golden DIR`` is ``golden record DIR``."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            if len(args) > 1 and nearest(args[0], self.commands) and not Path(args[0]).exists():
                ctx.fail(no_such_command(args[0], list(self.commands)))
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command's options too: they can be given right here."""
        options = [p for p in self.commands[self.default].params if isinstance(p, click.Option)]
        with formatter.section(f"Options of {self.default}"):
            formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])
        super().format_options(ctx, formatter)


def first_sentence(command: click.Command) -> str:
    """The command's ``short_help``, or the first sentence of its help, however long."""
    text = command.short_help or inspect.cleandoc(command.help or "")
    return " ".join(_SENTENCE_END.split(text, maxsplit=1)[0].split())


def no_such_command(name: str, known: list[str]) -> str:
    return f"No such command {name!r}{meant(name, known)}"


def usage_line(error: click.UsageError) -> str:
    """What is wrong with a command line, what may have been meant, and whose help to read."""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message = f"No such option {error.option_name!r}{meant(error.option_name, error.possibilities or [])}"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        choices = getattr(error.param.type, "choices", None)
        if choices and (match := _NOT_ONE_OF.search(message)):
            message += meant(match["value"], map(str, choices))
        if match := _ONNX_FOR_FOLDER.search(message):
            message = (
                f"{message[: match.start()]}{match['file']} is an ONNX file, and a run folder is wanted: that of a campaign on"
                " it ([model] onnx in its spec), or of a model that was trained or imported"
            )
    command = error.ctx.command_path if error.ctx else "testbed"
    return f"{message}{' See' if message.endswith('?') else '; see'} '{command} -h'"
