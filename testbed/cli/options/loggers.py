"""The option of the commands that train: where figures go beside the table of curves. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def log_option(command: Command) -> Command:
    """``--log``, passed on as ``loggers``."""
    return click.option(
        "--log",
        "loggers",
        multiple=True,
        type=click.Choice(["tensorboard", "wandb"]),
        help="Give each epoch's figures to TensorBoard or Weights & Biases (offline), too; the table curves.csv is always"
        " kept. Needs the extra of that name.",
    )(command)
