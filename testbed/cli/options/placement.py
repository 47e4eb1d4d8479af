"""Options that let ``protect`` choose its places under a budget."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import click

from testbed.cli.common import Command
from testbed.cli.options.numbers import Whole
from testbed.core.errors import UsageError
from testbed.sensitivity.rank.catalogue import METHODS


class Percent(click.ParamType):
    """A number of per cent: 5 or 5%."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value).strip().removesuffix("%"))
        except ValueError:
            self.fail(f"{value!r} is not a number of per cent, such as 5%", param, ctx)
        if not 0 < number <= 1000:
            self.fail(f"above 0 and at most 1000 %, not {value}", param, ctx)
        return number


_OPTIONS = (
    click.option(
        "--by",
        type=click.Choice(["measured", *METHODS]),
        metavar="SCORE",
        help="Choose places under --budget by the SDC-1 that a campaign measured there (measured), or by a score of their"
        " block, as `testbed rank --by`.",
    ),
    click.option("--budget", type=Percent(), metavar="P%", help="What protection may cost, of the plain file's."),
    click.option("--cost", type=click.Choice(["latency", "macs"]), help="What --budget is of.  [default: latency]"),
    click.option(
        "--campaign",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="--by measured: a finished campaign of the model.  [default: DIR's own]",
    ),
    click.option("--cost-batch", type=Whole(1, 4096), help="Images at a time when latency is measured.  [default: 1]"),
)


def placement_options(command: Command) -> Command:
    """Passed on together, as ``budget``: the keywords of a PlacementRequest, or None where none is asked for. Raises UsageError
    for some of them without others."""

    @wraps(command)
    def gathered(**arguments: Any) -> Any:
        by, percent = arguments.pop("by"), arguments.pop("budget")
        cost, campaign, batch = (arguments.pop(name) for name in ("cost", "campaign", "cost_batch"))
        if (by is None) != (percent is None):
            raise UsageError("--by and --budget go together: --by measured --budget 5%")
        if by is None and (cost is not None or campaign is not None or batch is not None):
            raise UsageError(
                "--cost, --cost-batch and --campaign are of a choice of places: add --by measured --budget 5%"
            )
        if cost == "macs" and batch is not None:
            raise UsageError("--cost-batch is of a budget of latency: leave it out, or --cost macs")
        budget = None
        if by is not None:
            budget = {"by": by, "budget_percent": percent, "cost": cost or "latency", "batch": batch or 1}
            budget["campaign"] = None if campaign is None else str(campaign)
        return command(budget=budget, **arguments)

    decorated: Any = gathered
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
