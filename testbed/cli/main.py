"""The command ``testbed``: a table of commands, each imported only when it is used."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
from typing import Any, NoReturn

import click

from testbed.cli.common import example, one_line_errors

# name -> (module:attribute, one line of help). One whose module is not there is not listed.
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("testbed.cli.doctor:doctor", "Say which engines and kernels work here, and why others do not."),
    "data": ("testbed.cli.data:data", "List data sets and prepare them."),
    "import": ("testbed.cli.import_:import_", "Import trained weights."),
    "export-weights": ("testbed.cli.export_weights:export_weights", "Write a model's weights for other tools."),
    "train": ("testbed.cli.train:train", "Train a Vision Transformer."),
    "golden": ("testbed.cli.golden:golden", "Record and verify golden outputs."),
    "tiers": ("testbed.cli.tiers:tiers", "Sort images into confidence tiers."),
    "subset": ("testbed.cli.subset:subset", "Choose images by tier."),
    "export": ("testbed.cli.export:export", "Write a deployable engine file and its parity with the golden."),
    "instrument": ("testbed.cli.instrument:instrument", "Give an ONNX file fault ports and list its sites."),
    "campaign": ("testbed.cli.campaign:campaign", "Run fault-injection campaigns."),
    "fuzziness": ("testbed.cli.fuzziness:fuzziness", "Measure how far each layer separates the classes."),
    "rank": ("testbed.cli.rank:rank", "Score blocks, heads and neurons, and hold the scores against a campaign."),
    "prune": ("testbed.cli.prune:prune", "Cut a model down to a smaller one."),
    "bench": ("testbed.cli.bench:bench", "Time models as deployed, side by side."),
    "sweep": ("testbed.cli.sweep:sweep", "Sweep tolerances over a finished campaign's rows."),
    "tradeoff": ("testbed.cli.tradeoff:tradeoff", "Put models side by side: accuracy, latency, vulnerability."),
    "report": ("testbed.cli.report:report", "Make a finished campaign's page again."),
    "fault": ("testbed.cli.fault:fault", "Look at single faults of a campaign."),
}


class LazyGroup(click.Group):
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
        from importlib.metadata import version

        click.echo(f"testbed {version('testbed')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=example("testbed doctor", "testbed campaign new digits", "testbed campaign run digits.toml"),
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """What happens to a Vision Transformer, as deployed, when a bit flips."""


def _end(number: int, _: object) -> NoReturn:
    """As Ctrl-C does, with time to remove what is half written."""
    sys.exit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    cli.main(prog_name="testbed")
