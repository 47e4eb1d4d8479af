"""The command ``testbed``: a table of commands, each imported only when it is used."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from typing import Any

import click

from testbed.cli.bugs import bug_line, debugging, watch_threads
from testbed.cli.common import Failure, example, one_line_errors
from testbed.cli.groups import CommandGroup
from testbed.cli.progress import log_to_stderr, quiet_libraries
from testbed.cli.signals import leave_to_system, listen, stopped_by
from testbed.core.errors import TestbedError

# name -> (module:attribute, one line of help). One whose module is not there is not listed.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": (
        "testbed.cli.commands.machine.doctor:doctor",
        "Say which engines and kernels work here, and why others do not.",
    ),
    "compat": (
        "testbed.cli.commands.machine.compat:compat",
        "Build models of other libraries and say what works on each.",
    ),
    "data": ("testbed.cli.commands.machine.data:data", "List data sets and prepare them."),
    "import": ("testbed.cli.commands.model.import_:import_", "Import trained weights."),
    "export-weights": (
        "testbed.cli.commands.model.export_weights:export_weights",
        "Write a model's weights for other tools.",
    ),
    "train": ("testbed.cli.commands.model.train:train", "Train a Vision Transformer."),
    "study": ("testbed.cli.commands.model.study:study", "Train the variants of a design choice, and compare them."),
    "golden": ("testbed.cli.commands.golden.record:golden", "Record and verify golden outputs."),
    "tiers": ("testbed.cli.commands.golden.tiers:tiers", "Sort images into confidence tiers."),
    "subset": ("testbed.cli.commands.golden.subset:subset", "Choose images by tier."),
    "export": (
        "testbed.cli.commands.model.export:export",
        "Write a deployable engine file and its parity with the golden.",
    ),
    "instrument": (
        "testbed.cli.commands.model.instrument:instrument",
        "Give an ONNX file fault ports and list its sites.",
    ),
    "campaign": ("testbed.cli.commands.campaign.run:campaign", "Run fault-injection campaigns."),
    "runs": ("testbed.cli.commands.results.runs:runs", "List the run folders in a folder."),
    "show": ("testbed.cli.commands.campaign.show:top_show", "Print the summary of a finished campaign."),
    "results": (
        "testbed.cli.commands.results.rates:results",
        "Tell rates of finished campaigns, of several in one table: text, CSV or LaTeX.",
    ),
    "figures": ("testbed.cli.commands.results.figures:figures", "Draw rates of finished campaigns for a paper."),
    "fuzziness": (
        "testbed.cli.commands.results.fuzziness:fuzziness",
        "Measure how far each layer separates the classes.",
    ),
    "classspace": (
        "testbed.cli.commands.results.classspace:classspace",
        "Say what every hidden state of a model knows of the classes.",
    ),
    "attention": (
        "testbed.cli.commands.results.attention:attention",
        "Show where a model looks, also while a fault acts.",
    ),
    "rank": (
        "testbed.cli.commands.results.rank:rank",
        "Score blocks, heads and neurons, and hold the scores against a campaign.",
    ),
    "circuits": (
        "testbed.cli.commands.results.circuits:circuits",
        "Measure how faithful a model's circuits are over their size, and score its edges.",
    ),
    "prune": ("testbed.cli.commands.model.prune:prune", "Cut a model down to a smaller one."),
    "protect": (
        "testbed.cli.commands.model.protect:protect",
        "Rewrite a model so that faults are corrected or detected.",
    ),
    "bench": ("testbed.cli.commands.model.bench:bench", "Time models as deployed, side by side."),
    "sweep": ("testbed.cli.commands.results.sweep:sweep", "Sweep tolerances over a finished campaign's rows."),
    "tradeoff": (
        "testbed.cli.commands.results.tradeoff:tradeoff",
        "Put models side by side: accuracy, latency, vulnerability.",
    ),
    "report": ("testbed.cli.commands.results.report:report", "Make a finished campaign's page again."),
    "cache": ("testbed.cli.commands.machine.cache:cache", "Say what is kept to save time, or remove it."),
    "fault": ("testbed.cli.commands.results.fault:fault", "Look at single faults of a campaign."),
    "help": ("testbed.cli.commands.machine.help:help_", "Show a command's help."),
}


class LazyGroup(CommandGroup):
    """A group whose help is printed, and whose commands are listed, without importing any of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (target, _) in COMMANDS.items() if importlib.util.find_spec(target.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors():
            result = super().invoke(ctx)
            sys.stdout.flush()  # so that a reader who has left is noticed here
            return result


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from testbed.core.folder.provenance import version_lines

        click.echo("\n".join(version_lines()))
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=example("testbed doctor", "testbed campaign new digits", "testbed campaign run digits.toml"),
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the versions of all that counts: put them into a bug report.",
)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="MODULE",
    help="Know the data sets that this module, or FILE.py, registers (testbed.data.register). Also $TESTBED_PLUGINS.",
)
def cli(plugins: tuple[str, ...]) -> None:
    """What happens to a Vision Transformer, as deployed, when a bit flips."""
    if plugins:
        from testbed.data.plugins import add_plugin

        for plugin in plugins:
            add_plugin(plugin)


def main() -> None:
    """The process ``testbed``: signals, output that cannot fail on a character, and one line for whatever goes wrong."""
    listen()
    _prepare_output()
    try:
        status = _status()
    finally:
        leave_to_system()
    sys.exit(status)


def _status() -> int:
    """Runs the command; the exit status."""
    try:
        returned = cli.main(prog_name="testbed", standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        if stopped := stopped_by():  # a library has made another error of it
            return 128 + stopped
        if debugging():
            raise
        Failure(bug_line(error), TestbedError.exit_code).show()
        return TestbedError.exit_code


def _prepare_output() -> None:
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # it lives as long as the process
        else:
            stream.reconfigure(errors="backslashreplace")
    log_to_stderr(logging.WARNING)
    if not debugging():
        quiet_libraries()
        watch_threads()
