"""Fuzziness in a run folder: what `testbed fuzziness` measures, and the pictures of what a training recorded.

fuzziness.csv, fuzziness.png      the folder's model (stage "fuzziness"); a campaign's folder is only read
fuzziness/log.csv, fuzziness/...  while it was trained (stage "fuzziness-log")
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from testbed.analysis.outputs.choice import TEST_IMAGES
from testbed.analysis.outputs.guessing import share_warning
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import write_text
from testbed.core.folder.forms import Form
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.data import Dataset, Split
from testbed.golden.recorded import is_campaign, working_in
from testbed.golden.recording import no_progress
from testbed.golden.reference import compute_device
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun, open_model_run
from testbed.sensitivity.fuzziness.fits import Fits, both_fits
from testbed.sensitivity.fuzziness.layers import LayerFuzziness, chosen_layers, measure_layers
from testbed.sensitivity.fuzziness.log import EpochFuzziness, Recorder, due, read_log, write_log
from testbed.sensitivity.fuzziness.plots import (
    accuracy_figure,
    epochs_figure,
    layers_figure,
    limits_of,
    rendered,
    save_gif,
    save_png,
)

log = logging.getLogger(__name__)

STAGE, COMMAND = "fuzziness", "testbed fuzziness"
TABLE, PICTURE = "fuzziness.csv", "fuzziness.png"
LOG_STAGE, LOG = "fuzziness-log", "fuzziness/log.csv"

Advance = Callable[[int], None]


class FuzzinessFacts(Form):
    """What the manifest says of the model: the images, and how it classifies them."""

    images: int
    classes: int
    accuracy: float
    loss: float


class FuzzinessLogFacts(Form):
    """``every``: epochs from one that was recorded to the next."""

    every: int


@dataclass(frozen=True)
class RunFuzziness:
    """``result`` of the model in ``run``, on test images of ``data``."""

    run: str
    data: str
    depth: int
    result: LayerFuzziness

    @property
    def fits(self) -> Fits:
        return fits_of(self.result.layers, self.depth)


def fits_of(layers: Mapping[str, float], depth: int) -> Fits:
    """Both laws over blocks 0 to depth - 1, of which none may be left out."""
    interior = [f"block.{number}" for number in range(depth)]
    if any(name not in layers for name in interior):
        return Fits(None, None, "fits are of all blocks, and some were left out")
    return both_fits([layers[name] for name in interior])


def measure_run(
    path: Path,
    *,
    layers: Iterable[str] | None = None,
    images: int | None = None,
    weighted: bool = False,
    device: str = "cpu",
    progress: Callable[[int], AbstractContextManager[Advance]] | None = None,
) -> RunFuzziness:
    """Measures the model of the run folder and writes TABLE and PICTURE, unless they are there already.

    ``layers``: of ``layer_names``, by default all; ``images``: so many of the official test split, a random choice with
    the classes in proportion, by default all. Raises UsageError for a folder without model or data and as
    ``measure_layers``, StaleArtefact for an edited model.
    """

    target = compute_device(device)

    def measured(run: ModelRun, data: Dataset, test: Split, names: Sequence[str]) -> LayerFuzziness:
        model = run.model.to(target)
        with progress(2 * len(test)) if progress else no_progress() as advance:
            result = measure_layers(model, test, layers=names, weighted=weighted, advance=advance)
        if warning := share_warning(result.accuracy, result.images, len(data.classes)):
            log.warning("fuzziness: %s", warning)
        return result

    def opened(run: ModelRun) -> tuple[Dataset, Split, list[str]]:
        names = chosen_layers(run.model, layers)
        data = dataset_of(run)
        test = data.test if images is None else data.test.chosen(images, data.seed, TEST_IMAGES)
        return data, test, names

    if is_campaign(path):
        run = open_model_run(path)
        data, test, names = opened(run)
        return RunFuzziness(str(path), data.name, run.model.config.depth, measured(run, data, test, names))
    with working_in(path) as run:
        data, test, names = opened(run)
        depth = run.model.config.depth
        inputs = {
            "model": run.model_hash,
            "test": test.sha256(),
            "preprocess": test.preprocess.describe(),
            "layers": names,
            "weighted": weighted,
        }

        def build() -> FuzzinessFacts:
            result = measured(run, data, test, names)
            _write(path, RunFuzziness(path.resolve().name, data.name, depth, result))
            return FuzzinessFacts(
                images=result.images, classes=result.classes, accuracy=result.accuracy, loss=result.loss
            )

        run.folder.stage(STAGE, inputs, [TABLE, PICTURE], build, command=COMMAND)
    facts = facts_of(run.folder, STAGE, FuzzinessFacts)
    result = LayerFuzziness(_read(path / TABLE), facts.images, facts.classes, facts.accuracy, facts.loss)
    return RunFuzziness(str(path), data.name, depth, result)


def recorder_for(path: Path, data: Dataset, *, every: int, epochs: int) -> Recorder:
    """The callback that records into run folder ``path`` while it is trained. Raises UsageError as `Recorder`."""
    if not epochs:
        raise UsageError(f"0 epochs train nothing that could be recorded; measure the weights with `{COMMAND} DIR`")
    return Recorder(path / LOG, data.test, len(data.classes), every=every, epochs=epochs)


def finish_log(path: Path, recorder: Recorder) -> list[EpochFuzziness]:
    """Finishes the log after the training: writes the pictures of the log, and returns it. The same call again changes
    nothing.

    Raises UsageError where a training that was finished before had not recorded what ``recorder`` is to, StaleArtefact
    where the log was edited.
    """
    with working_in(path) as run:
        if recorder.called:
            run.folder.redo(LOG_STAGE, [LOG_STAGE])
        log = _log_in(run.folder) if (path / LOG).exists() else []
        missing = [
            epoch
            for epoch in range(1, recorder.epochs + 1)
            if due(epoch, recorder.every, recorder.epochs) and epoch not in {row.epoch for row in log}
        ]
        if missing and not recorder.called:
            raise UsageError(
                f"{path} is trained already, and epoch {missing[0]} was not recorded;"
                " train again: `testbed train ... --redo train`"
            )
        title, files = str(run.folder.manifest["name"]), _log_files(log)
        inputs = {"epochs": [row.epoch for row in log], "layers": list(log[-1].layers)}

        def build() -> FuzzinessLogFacts:
            _draw(path, log, title, run.model.config.depth)
            return FuzzinessLogFacts(every=recorder.every)

        run.folder.stage(LOG_STAGE, inputs, files, build, command=COMMAND)
    return log


def recorded_log(path: Path) -> list[EpochFuzziness]:
    """What the training in run folder ``path`` recorded, or has so far.

    Raises UsageError where it recorded nothing, StaleArtefact where the log was edited since the training's end.
    """
    folder = RunFolder.existing(path)
    if not (folder / LOG).exists() and LOG_STAGE not in folder.manifest["stages"]:
        raise UsageError(f"the training in {path} recorded no fuzziness; train with --fuzziness-every N")
    return _log_in(folder)


def write_recorded(path: Path, to: Path) -> list[str]:
    """Writes the log of the training in run folder ``path``, so far, and its pictures below ``to``; returns their names.

    Raises as `recorded_log`, and UsageError where ``to`` is the run folder itself: it holds its own.
    """
    if to.resolve() == path.resolve():
        raise UsageError(f"{path} holds its own pictures when its training is finished; name another folder with --to")
    log = recorded_log(path)
    if not log:
        raise UsageError(f"the training in {path} has recorded no epoch yet; look again later")
    write_log(to / LOG, log)
    depth = sum(name.startswith("block.") for name in log[-1].layers)
    _draw(to, log, str(RunFolder.existing(path).manifest["name"]), depth)
    return _log_files(log)


def _log_in(folder: RunFolder) -> list[EpochFuzziness]:
    if LOG_STAGE in folder.manifest["stages"]:
        try:
            folder.verify(LOG_STAGE, [LOG])
        except StaleArtefact as error:
            raise StaleArtefact(
                f"{folder / LOG} was edited or removed since it was recorded; train again: `testbed train ... --redo train`"
            ) from error
    return read_log(folder / LOG)


def short(data: str) -> str:
    """The data set's name for a title: without the folders of its path."""
    kind, colon, path = data.partition(":")
    return f"{kind}{colon}{Path(path).name}"


def _log_files(log: Sequence[EpochFuzziness]) -> list[str]:
    """Every file under DIR/fuzziness."""
    epochs = [_epoch_file(row.epoch) for row in log]
    layers = [_layer_file(name) for name in log[-1].layers]
    return [LOG, *epochs, "fuzziness/epochs.gif", "fuzziness/epochs.png", *layers, "fuzziness/accuracy.png"]


def _epoch_file(epoch: int) -> str:
    return f"fuzziness/epoch-{epoch:04d}.png"


def _layer_file(layer: str) -> str:
    return f"fuzziness/layer-{layer}.png"


def _draw(path: Path, log: Sequence[EpochFuzziness], title: str, depth: int) -> None:
    for stale in (path / LOG).parent.glob("*-*.png"):  # of a training that was recorded at other epochs
        stale.unlink()
    limits = limits_of(log)  # one scale for all epochs: they are looked at side by side, and as an animation
    pictures = []
    for row in log:
        text = [
            f"train loss {row.train_loss:.4f}",
            f"train accuracy {100 * row.train_accuracy:.2f} %",
            f"test accuracy {100 * row.test_accuracy:.2f} %",
        ]
        fits = fits_of(row.layers, depth)
        figure = layers_figure(row.layers, fits, f"{title}, epoch {row.epoch}", text, limits=limits)
        pictures.append(rendered(figure))
        save_png(path / _epoch_file(row.epoch), pictures[-1])
    save_gif(path / "fuzziness/epochs.gif", pictures)
    save_png(path / "fuzziness/epochs.png", epochs_figure(log, log[-1].layers, title))
    for name in log[-1].layers:
        save_png(path / _layer_file(name), epochs_figure(log, [name], f"{title}, {name}"))
    save_png(path / "fuzziness/accuracy.png", accuracy_figure(log, title))


def _write(path: Path, measured: RunFuzziness) -> None:
    result = measured.result
    lines = [f"{name},{value!r}\n" for name, value in result.layers.items()]
    write_text(path / TABLE, "layer,fuzziness\n" + "".join(lines))
    text = [f"accuracy {100 * result.accuracy:.2f} %", f"loss {result.loss:.4f} nats", f"{result.images:,} test images"]
    save_png(
        path / PICTURE, layers_figure(result.layers, measured.fits, f"{measured.run} on {short(measured.data)}", text)
    )


def _read(table: Path) -> dict[str, float]:
    rows = csv.DictReader(io.StringIO(table.read_text()))
    return {row["layer"]: float(row["fuzziness"]) for row in rows}
