"""Options that say how components are scored, shared by ``rank``, ``circuits`` and ``prune``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import Command
from testbed.cli.options.numbers import LARGEST_SEED, Number, Whole

if TYPE_CHECKING:
    from testbed.sensitivity.rank.settings import ScoreSettings

_OPTIONS = (
    click.option("--images", type=Whole(1), default=256, show_default=True, help="Analysis images."),
    click.option(
        "--data",
        metavar="NAME",
        help="Data set of the analysis images, where DIR's has test images only: imagefolder:DIR/train.",
    ),
    click.option(
        "--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of the images and their partners."
    ),
    click.option("--chunks", type=Whole(1, 4096), default=8, show_default=True, help="Runs of neurons per MLP."),
    click.option(
        "--rule",
        type=click.Choice(["incremental", "cumulative"]),
        default="incremental",
        show_default=True,
        help="acdc: what tau bounds.",
    ),
    click.option(
        "--ablation",
        type=click.Choice(["zero", "mean", "resample"]),
        default="zero",
        show_default=True,
        help="acdc: what removed values become.",
    ),
    click.option(
        "--loss",
        type=click.Choice(["task", "logit_difference", "kl"]),
        default="task",
        show_default=True,
        help="eap; kl needs eap-ig.",
    ),
    click.option(
        "--corrupt",
        type=click.Choice(["other_class", "mean", "noise", "masked"]),
        default="other_class",
        show_default=True,
        help="eap: corrupt inputs.",
    ),
    click.option("--snr-db", type=Number(-300, 300), default=0.0, show_default=True, help="eap: of --corrupt noise."),
    click.option("--masks", metavar="DIR", help="eap: objects of --corrupt masked, DIR/IMAGE-ID.png; or imagenet-s."),
    click.option("--steps", type=Whole(1, 10_000), default=5, show_default=True, help="eap-ig: points of the path."),
)


@dataclass(frozen=True)
class ScoreOptionValues:
    """The options' values; `made` when something heavy may be imported."""

    values: dict[str, Any]

    def made(self, **more: Any) -> ScoreSettings:
        from testbed.sensitivity.rank.settings import ScoreSettings

        return ScoreSettings(**self.values, **more)


def score_options(command: Command) -> Command:
    """Passed on together, as ``settings``."""
    names = ("images", "data", "seed", "chunks", "rule", "ablation", "loss", "corrupt", "snr_db", "masks", "steps")

    @wraps(command)
    def gathered(**arguments: Any) -> Any:
        values = {name: arguments.pop(name) for name in names}
        return command(settings=ScoreOptionValues(values), **arguments)

    decorated: Any = gathered
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
