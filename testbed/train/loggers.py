"""Where the figures of a training go while it runs: a table always, TensorBoard and Weights & Biases on request.

Their packages are optional and imported only when they are asked for. Nothing is sent anywhere: Weights & Biases works
offline unless $WANDB_MODE says otherwise, and its files are uploaded with `wandb sync` by whoever has an account.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from testbed.core.errors import TestbedError, UsageError, first_line
from testbed.models.vit import ViT
from testbed.train.curves import read_csv, write_csv
from testbed.train.record import Callback, EpochRecord


class TrainingLogger(Protocol):
    """Takes the figures of each epoch, in order; an epoch that was trained again comes again."""

    def log(self, record: EpochRecord) -> None: ...

    def close(self) -> None: ...


class TensorBoardLogger:
    """Event files under ``folder``; what was logged from ``first_epoch`` on is forgotten (`tensorboard --logdir DIR`)."""

    def __init__(self, folder: Path, first_epoch: int, title: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)
        if first_epoch == 1:
            self._writer.add_text("settings", f"{title}: {dict(settings)}")

    def log(self, record: EpochRecord) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases under ``folder``, offline unless $WANDB_MODE says otherwise.

    A training that goes on keeps the run's id, so that `wandb sync --append` puts both parts into one run.
    """

    def __init__(self, folder: Path, first_epoch: int, title: str, settings: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "testbed"),
                name=title,
                id=hashlib.sha256(f"{folder.resolve()}/{sorted(settings.items())}".encode()).hexdigest()[:16],
                dir=folder.parent,
                config=dict(settings),
                mode=_wandb_mode(),
                settings=quiet,
            )
        except wandb.Error as error:
            raise TestbedError(
                f"Weights & Biases did not start ({first_line(error)}); unset WANDB_MODE to log offline"
            ) from error

    def log(self, record: EpochRecord) -> None:
        self._run.log(scalars(record), step=record.epoch)

    def close(self) -> None:
        self._run.finish()


def _wandb_mode() -> Any:
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in ("offline", "online", "disabled", "shared"):
        raise UsageError(f"WANDB_MODE is {mode!r}; set it to offline, online or disabled, or unset it")
    return mode


LOGGERS: dict[str, Callable[[Path, int, str, Mapping[str, Any]], TrainingLogger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}
"""What can be asked for, by the name of its package, of the extra that installs it, and of its folder in the run."""


def check_loggers(names: Sequence[str]) -> None:
    """Raises UsageError for a logger that is unknown or whose package is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise UsageError(f"unknown logger {name!r}; known: {', '.join(LOGGERS)}")
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"logging to {name} needs its package: pip install 'testbed[{name}]'")


def scalars(record: EpochRecord) -> dict[str, float]:
    """The figures by the names under which they are logged; without those that are not known (no validation images)."""
    values = {
        "loss/train": record.train_loss,
        "loss/validation": record.validation_loss,
        "accuracy/train": record.train_accuracy,
        "accuracy/validation": record.validation_accuracy,
        "learning_rate": record.learning_rate,
        "seconds": record.seconds,
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


@contextmanager
def logging_to(table: Path, names: Sequence[str], title: str, settings: Mapping[str, Any]) -> Iterator[Callback]:
    """A callback that keeps ``table`` (CSV) up to date after every epoch, and hands each epoch to the loggers ``names``.

    A training that goes on continues all of them; a logger that was not asked for before is first given the epochs that
    the table has. ``settings`` go with the figures. Raises UsageError as `check_loggers`.
    """
    check_loggers(names)
    with ExitStack() as open_loggers:
        yield _EpochLog(table, names, title, settings, open_loggers)


class _EpochLog:
    def __init__(
        self, table: Path, names: Sequence[str], title: str, settings: Mapping[str, Any], stack: ExitStack
    ) -> None:
        self.table, self.names, self.title, self.settings, self.stack = table, names, title, settings, stack
        self.loggers: list[TrainingLogger] | None = None

    def __call__(self, epoch: int, model: ViT, record: EpochRecord) -> None:
        earlier = [row for row in _kept(self.table) if row.epoch < epoch] if epoch > 1 else []
        if self.loggers is None:
            self.loggers = [self._opened(name, epoch, earlier) for name in self.names]
        write_csv(self.table, [*earlier, record])
        for logger in self.loggers:
            logger.log(record)

    def _opened(self, name: str, epoch: int, earlier: Sequence[EpochRecord]) -> TrainingLogger:
        folder = self.table.parent / name
        missed = [] if folder.exists() else earlier
        logger = LOGGERS[name](folder, missed[0].epoch if missed else epoch, self.title, self.settings)
        self.stack.callback(logger.close)
        for row in missed:
            logger.log(row)
        return logger


def log_finished(table: Path, names: Sequence[str], title: str, settings: Mapping[str, Any]) -> None:
    """Gives a finished training's table to the loggers that were not asked for while it ran."""
    for name in names:
        if (folder := table.parent / name).exists():
            continue
        logger = LOGGERS[name](folder, 1, title, settings)
        try:
            for row in read_csv(table):
                logger.log(row)
        finally:
            logger.close()


def _kept(table: Path) -> list[EpochRecord]:
    return read_csv(table) if table.exists() else []
