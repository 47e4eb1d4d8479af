"""``testbed campaign``: run fault-injection campaigns, and compare them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.bugs import concerns
from testbed.cli.commands.campaign.ber import ber
from testbed.cli.commands.campaign.new import list_, new, schema
from testbed.cli.commands.campaign.plan import plan
from testbed.cli.commands.campaign.show import show
from testbed.cli.commands.campaign.status import status
from testbed.cli.common import emit, example, json_option, run_option
from testbed.cli.groups import CommandGroup
from testbed.cli.options.numbers import Whole
from testbed.cli.options.worker_setup import words_of, work_options
from testbed.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from testbed.api.running import FinishedCampaign
    from testbed.campaign.results.progress import Show
    from testbed.campaign.work.worker_setup import WorkerSetup


@click.group(cls=CommandGroup, epilog=example("testbed campaign new digits", "testbed campaign run digits.toml"))
def campaign() -> None:
    """Run fault-injection campaigns, and compare them."""


@campaign.command(
    epilog=example(
        "testbed campaign run digits.toml --dry-run",
        "testbed campaign run digits.toml --run runs/digits",
        "testbed campaign run digits.toml --set engine.backend=openvino --run runs/digits-openvino",
        "testbed campaign run digits.toml --set seed=43 --run runs/digits-43 --cache shared",
        "testbed campaign run digits.toml --run runs/digits --json > summary.json",
    )
)
@click.argument("spec", type=click.Path(path_type=Path))
@run_option(required=False)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan: faults, widths, time; refuse what the run would, as far as it is known. Writes nothing.",
)
@click.option("--redo", metavar="STAGE", help="Forget this stage and all later ones, and run them again.")
@click.option("--fresh", is_flag=True, help="Start over: give up the campaign in DIR, with its files and rows.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take exports, twins, tuned batches and passed gates of the same model on the same engine from DIR, and keep"
    " them there. Unless said: $TESTBED_CACHE; without either they are made anew.",
)
@work_options
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value of SPEC: engine.backend=openvino."
)
@json_option
def run(
    spec: Path,
    run: Path | None,
    dry_run: bool,
    redo: str | None,
    fresh: bool,
    cache: Path | None,
    worker_setup: WorkerSetup,
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run the campaign that the file SPEC describes, or go on with it where it stopped.

    DIR is runs/NAME unless --run says otherwise. Everything that the numbers rest on stays there. The same command
    resumes a campaign that was interrupted, and prints the summary of one that is finished. Other settings are taken as
    long as no fault was run in DIR; then they are refused, unless --fresh gives up what was run. Relative paths in SPEC are
    those of the current folder or, where nothing is there, of SPEC's own.
    """
    from testbed.campaign.spec.campaign import load_spec

    if fresh and redo:
        raise UsageError("--fresh makes every stage again, --redo some: give one of them")
    loaded = load_spec(spec, changes)
    folder = run or Path("runs") / loaded.name
    if dry_run:
        from testbed.cli.tables.summary import dry_run_tables
        from testbed.protect.campaigns.preview import dry_run_campaigns

        dry = dry_run_campaigns(loaded, folder, fresh=fresh)
        emit(dry.to_json(), as_json, lambda: dry_run_tables(dry))
        return
    concerns(folder)
    sets = [word for change in changes for word in ("--set", change)]
    reused = [] if cache is None else ["--cache", str(cache)]
    again = shlex.join([str(spec), *sets, "--run", str(folder), *reused, *words_of(worker_setup)])

    def run_all(show: Show) -> FinishedCampaign:
        from testbed.api.running import run_to_page

        return run_to_page(loaded, folder, redo=redo, fresh=fresh, worker_setup=worker_setup, show=show, cache=cache)

    done = _watched(run_all, folder, again)

    from testbed.cli.tables.summary import finished_json, finished_tables

    emit(finished_json(done), as_json, lambda: finished_tables(done, folder))


def _watched(run: Callable[[Show], FinishedCampaign], folder: Path, again: str) -> FinishedCampaign:
    """Run it while its progress is shown. again: the words of the command that goes on with it."""
    from testbed.campaign.results.kept import describe_kept
    from testbed.cli.progress import log_to_stderr
    from testbed.cli.watch import watch_on_stderr

    log_to_stderr()
    try:
        with watch_on_stderr() as show:
            done = run(show)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{describe_kept(folder)}; go on with: testbed campaign run {again}") from None
    sys.stderr.flush()
    return done


@campaign.command(
    epilog=example(
        "testbed campaign compare runs/digits runs/digits-openvino",
        "testbed campaign compare runs/digits runs/digits-fp16 --json > across.json",
        "testbed campaign compare runs/digits runs/digits-torch --to disagreements.csv",
    )
)
@click.argument("first", metavar="DIR_A", type=click.Path(file_okay=False, path_type=Path))
@click.argument("second", metavar="DIR_B", type=click.Path(file_okay=False, path_type=Path))
@click.option("--rows", default=5, show_default=True, type=Whole(0), help="Disagreeing rows to print, per cause.")
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write all: .csv or .parquet."
)
@json_option
def compare(first: Path, second: Path, rows: int, to: Path | None, as_json: bool) -> None:
    """Compare two finished campaigns of one model: two engines, or two precisions.

    In one precision the faults must be the same ones: how far the outcomes agree, Cohen's kappa, and every
    disagreement with its distance from the tolerance. Across precisions: the rates per role of the struck bit (sign,
    exponent, mantissa, magnitude) at the sites that both have, and of the faults that pair. --json has all of it.
    """
    from testbed.compare.campaigns import check_table_name, compare_campaigns, write_table

    if to:
        check_table_name(to)
    compared = compare_campaigns(first, second)
    if to:
        write_table(compared, to)

    from testbed.cli.tables.compare import compare_tables

    emit(compared.to_json(), as_json, lambda: compare_tables(compared, rows))


campaign.add_command(ber)
campaign.add_command(list_)
campaign.add_command(new)
campaign.add_command(plan)
campaign.add_command(schema)
campaign.add_command(show)
campaign.add_command(status)
