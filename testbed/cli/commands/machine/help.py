"""``testbed help``: what ``-h`` of a command says, asked for in front."""

from __future__ import annotations

import click

from testbed.cli.common import example
from testbed.cli.groups import no_such_command


@click.command("help", epilog=example("testbed help", "testbed help campaign run"))
@click.argument("command", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, such as campaign or campaign run."""
    shown = ctx.find_root()
    for word in command:
        group = shown.command
        if not isinstance(group, click.Group):
            shown.fail(f"'{shown.command_path}' has no commands of its own")
        subcommand = group.get_command(shown, word)
        if subcommand is None:
            shown.fail(no_such_command(word, group.list_commands(shown)))
        shown = click.Context(subcommand, parent=shown, info_name=word, **subcommand.context_settings)
    click.echo(shown.get_help())
