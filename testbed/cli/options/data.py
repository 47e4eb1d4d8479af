"""Options of the commands that take a data set. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from testbed.cli.options.numbers import Whole

Command = TypeVar("Command", bound=Callable[..., Any])


def preprocess_option(default: str) -> Callable[[Command], Command]:
    """``--preprocess``, passed on as ``preprocess``; ``default`` says what is done without it."""
    return click.option(
        "--preprocess",
        metavar="P",
        help="How images are resized and normalised: a preset (imagenet), values"
        " (crop=0.9,interpolation=bicubic,mean=0.5,std=0.5), or a file: preprocessor_config.json, timm's config.json,"
        f" or JSON or TOML of such values; by default {default}.",
    )


def classes_option(command: Command) -> Command:
    """``--classes``, passed on as ``classes``."""
    return click.option(
        "--classes",
        metavar="FILE",
        help="The order of the model's outputs: a file of the class names, one a line (or JSON: a list, {index: name}, a"
        " config.json), or 'natural' (0, 1, 2, ..., 10), 'text' (0, 1, 10, 2, ...) or 'imagenet' (the 1,000 WordNet ids of"
        " its class folders); by default the data set's own, which is text order for class folders.",
    )(command)


def train_images_option(command: Command) -> Command:
    """``--train-images N``, passed on as ``train_images``."""
    return click.option(
        "--train-images",
        type=Whole(1),
        metavar="N",
        help="Train on N images only, and choose the epoch by validation images in the same proportion: a random choice"
        " by class.",
    )(command)
