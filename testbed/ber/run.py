"""What a bit-error-rate sweep runs on: a campaign's model in an engine with weights that can be struck, and the test
images, correctly classified or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from testbed.analysis.outputs.choice import BIT_ERROR_RATE, choose
from testbed.analysis.outputs.classes import class_counts
from testbed.analysis.outputs.confidence import top1
from testbed.analysis.outputs.guessing import guessing_warning
from testbed.ber.rates import ber_sweep
from testbed.ber.record import BitErrorRecord, FlippedEngine
from testbed.campaign.evaluate.weights.in_place import WeightGate, weight_gate_of
from testbed.campaign.files import Files
from testbed.campaign.folder.claim import claimed, clean, recorded_spec
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import Inputs, NamedImages
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.reuse.reuse import Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import Site
from testbed.data import Split
from testbed.engines.backends import require_engine
from testbed.instrument.shapes import input_name, output_name

log = logging.getLogger(__name__)

_GATE_IMAGES = 32
_IN_MEMORY = 1 << 30  # bytes of images that are read once; more are read again for every repeat

RepeatProgress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Of so many steps: a context that gives what is to be called as they are done."""


def prepared(folder: Path, spec: CampaignSpec | None = None, watch: Watch = unwatched) -> Preparation:
    """A campaign's model, exported and tuned: of a run folder, or of a spec, for which it is made where needed. watch: is
    told how far that is.

    Raises UsageError for a folder without a campaign or with another one than the spec's, StaleArtefact for files that
    were changed.
    """
    if spec is None:
        existing = RunFolder.existing(folder)
        recorded = recorded_spec(existing)
        require_engine(recorded.engine.backend)
        return Preparation.finished(recorded, existing)
    spec = spec.plain
    run = claimed(folder, spec)
    require_engine(spec.engine.backend)
    preparation = Preparation(spec, run, watch=watch, reuse=Reuse.named(None, spec.engine.backend))
    with run.locked():
        clean(run)
        run.save()
        preparation.run()
    return preparation


def run_ber(
    preparation: Preparation,
    rates: Sequence[float],
    repeats: int,
    *,
    sites: Sequence[str] = ("*",),
    images: int | None = None,
    seed: int | None = None,
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]],
) -> BitErrorRecord:
    """`ber_sweep` on the test images, or on so many of them: a random choice with the classes in proportion, by the
    campaign's seed. sites: patterns of weights. seed: of the flips; the campaign's unless said. progress: given the
    images there are to run in all, gives what to tell of some done."""
    spec, classes = preparation.spec, preparation.dataset.classes
    with weight_engine(preparation, images) as bench, progress(len(rates) * repeats * len(bench.images)) as advance:
        gate = _gate(preparation, bench, bench.table.select("weight", sites))
        chosen = bench.table.without(left_out.site for left_out in gate.left_out).select("weight", sites)
        seed = spec.seed if seed is None else seed
        swept = ber_sweep(bench, chosen, rates, repeats, seed, spec.confidence, advance)
        if warning := guessing_warning(top1(bench.side.stored), bench.images.labels, len(classes)):
            log.warning("without flips: %s", warning)
        return BitErrorRecord(
            name=spec.name,
            engine=FlippedEngine(
                backend=spec.engine.backend,
                precision=spec.engine.precision,
                batch=bench.batch,
                hash=bench.runner.info.hash,
                deployment_id=bench.runner.info.deployment_id,
                options=dict(bench.runner.info.options),
            ),
            left_out=gate.left_out,
            classes=class_counts(bench.images.labels, classes),
            images=len(bench.images),
            accuracy=swept.accuracy,
            sites=[site.name for site in chosen],
            bits=swept.bits,
            repeats=repeats,
            seed=seed,
            confidence=spec.confidence,
            rates=swept.rates,
        )


def _gate(preparation: Preparation, engine: CampaignEngine, sites: Sequence[Site]) -> WeightGate:
    """Which weights may be struck in place, on a few images; what may not is told."""
    images, spec, inputs = engine.images, preparation.spec, engine.inputs
    some = choose(images.ids, images.labels, min(_GATE_IMAGES, len(images)), spec.seed, BIT_ERROR_RATE)
    few = NamedImages(
        tuple(images.ids[row] for row in some), images.labels[some], images.tiers[some], images.positions[some]
    )
    workplace = Workplace(preparation.folder, spec)
    gate = weight_gate_of(workplace, replace(engine, images=few, inputs=lambda rows: inputs(some[rows])), sites)
    for reason, names in gate.by_reason().items():
        log.warning("%d weights are left out (%s): %s", len(names), ", ".join(names), reason)
    return gate


@contextmanager
def weight_engine(preparation: Preparation, images: int | None) -> Iterator[CampaignEngine]:
    """An engine whose weights can be struck, with so many test images, or all. Raises UsageError where it has no model."""
    if "model" not in preparation.spec.targets:
        raise UsageError('a bit-error-rate sweep needs the whole model: a section of the spec with target = "model"')
    workplace, plain = Workplace(preparation.folder, preparation.spec), Files("model").plain
    request = workplace.request("model", plain, mutable_weights=True)
    asked = chosen_images(preparation.dataset.test, images, preparation.spec.seed)
    with workplace.open(request) as runner:
        yield CampaignEngine(
            target="model",
            where="weight",
            table=workplace.table("model"),
            runner=runner,
            inputs=_inputs(asked),
            input_name=input_name(request.onnx),
            output_name=output_name(request.onnx),
            images=named_images(asked),
            batch=workplace.batch,
        )


def chosen_images(test: Split, images: int | None, seed: int) -> Split:
    """Choose so many test images, as evenly from the classes as they allow; None: all of them.

    Raises UsageError for more images than there are."""
    if images is None:
        return test
    if not 1 <= images <= len(test):
        raise UsageError(f"the data set has {len(test)} test images; {images} cannot be asked about")
    return test.chosen(images, seed, BIT_ERROR_RATE)


def named_images(asked: Split) -> NamedImages:
    """Name the images of a split, all of one tier."""
    n = len(asked)
    return NamedImages(tuple(asked.ids), asked.labels.astype(np.int64), np.zeros(n, np.int16), np.arange(n))


def _inputs(asked: Split) -> Inputs:
    if asked.batch(slice(0, 1)).nbytes * len(asked) > _IN_MEMORY:
        return asked.batch
    pixels = asked.batch(slice(None))
    return lambda rows: pixels[rows]
