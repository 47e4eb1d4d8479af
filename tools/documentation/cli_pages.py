"""Reference pages of the command line, from click: the same text as each command's -h."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

import click

from documentation.markdown import anchored, code, prose, table
from testbed.cli.groups import first_sentence
from testbed.cli.main import cli

_EXIT_STATUS = (
    ("0", "done"),
    ("1", "an error: one line that says what to do"),
    ("2", "a wrong request: an unknown option, a spec that contradicts itself, a file that is not there"),
    ("3", "a gate or check that does not hold"),
    ("130", "interrupted: the first Ctrl-C keeps what is finished and ends, a second ends the process at once"),
)


class Command(NamedTuple):
    """path: "testbed campaign run"."""

    path: str
    command: click.Command
    context: click.Context

    @property
    def anchor(self) -> str:
        return self.path.removeprefix("testbed ").replace(" ", "-")

    @property
    def top(self) -> str:
        return self.path.split()[1]

    def option_anchor(self, option: click.Option) -> str:
        return f"{self.anchor}{max(option.opts, key=len)}"


def commands() -> list[Command]:
    """Every command and group but the topmost, in the order of the help."""
    return list(_under(cli, click.Context(cli, info_name="testbed")))


def cli_pages() -> dict[str, str]:
    """File name under reference/cli -> page; one for each command of the first level."""
    every = commands()
    pages = {"index.md": _index(every)}
    for command in every:
        pages[f"{command.top}.md"] = pages.get(f"{command.top}.md", f"# testbed {command.top}\n\n") + _section(command)
    return pages


def options(command: Command) -> list[click.Option]:
    """What its help lists, but --help."""
    return [option for option in command.command.params if isinstance(option, click.Option) and not option.hidden]


def _under(group: click.Group, context: click.Context) -> Iterator[Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield Command(inner.command_path, command, inner)
        if isinstance(command, click.Group):
            yield from _under(command, inner)


def _index(every: list[Command]) -> str:
    rows = [
        [f"[`{command.path}`]({command.top}.md#{command.anchor})", prose(first_sentence(command.command))]
        for command in every
    ]
    top = Command("testbed", cli, click.Context(cli, info_name="testbed"))
    return "\n".join(
        [
            "# Command line\n",
            "`testbed help COMMAND` prints what stands here, and so does `testbed COMMAND -h`.\n",
            table(["command", "what it does"], rows),
            "## Options of `testbed` itself {#testbed}\n",
            "They stand before the command: `testbed --plugin my_data.py data list`.\n",
            _options(top),
            "## Exit status {#exit-status}\n",
            table(["status", "meaning"], [[code(status), meaning] for status, meaning in _EXIT_STATUS]),
            "## Completion {#completion}\n",
            "Shells complete commands and options after this line in their start-up file (or `zsh_source`, `fish_source`):\n",
            '```sh\neval "$(_TESTBED_COMPLETE=bash_source testbed)"\n```\n',
        ]
    )


def _section(command: Command) -> str:
    usage = " ".join(command.command.collect_usage_pieces(command.context))
    parts = [
        f"## {command.path.removeprefix('testbed ')} {{#{command.anchor}}}\n",
        f"```text\n{command.path} {usage}\n```\n",
        _help_text(command.command),
        _options(command),
        _examples(command.command),
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _help_text(command: click.Command) -> str:
    """Paragraphs; those after a ``\\b`` keep their lines."""
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("\b\n"):
            paragraphs.append(f"```text\n{paragraph[2:]}\n```")
        else:
            paragraphs.append(prose(" ".join(paragraph.split())))
    return "\n\n".join(paragraphs) + "\n"


def _options(command: Command) -> str:
    rows = []
    for option in options(command):
        names, text = option.get_help_record(command.context) or ("", "")
        rows.append([anchored(names, command.option_anchor(option)), prose(" ".join(text.split()))])
    return table(["option", "meaning"], rows) if rows else ""


def _examples(command: click.Command) -> str:
    """Of the epilog that `testbed.cli.common.example` makes."""
    _, found, lines = (command.epilog or "").partition("Example:\n")
    return f"```sh\n{inspect.cleandoc(lines)}\n```\n" if found else ""
