"""What an engine promises, checked on a model: the same bits each time, outputs that stay, faults bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import EngineError, TestbedError
from testbed.core.fault import masks_for
from testbed.engines.runner import WeightInjector, faulty_weight
from testbed.semantics import as_words, corrupt
from testbed.testing.instrumented import BuildRunner, InstrumentedModel

_BITS = (0, 12, 23, 30, 31)


def check_engine_contract(engine: str | BuildRunner, model: InstrumentedModel, images: NDArray) -> list[str]:
    """Check the promises of an engine on a model of fp32; `docs/developer/add-an-engine.md` lists them.

    Args:
        engine: Name of an engine, or its runner class.
        model: The model.
        images: Two images or more, as the model takes them.

    Returns:
        The promises that do not hold, one line each; empty where all do.

    Raises:
        EngineError: Where the engine cannot be built, or fails.

    Example:
        ```py
        model = InstrumentedModel.of_onnx(Path("runs/digits/model.onnx").read_bytes())
        assert check_engine_contract(MyRunner, model, images) == []
        ```
    """
    return [*_plain(engine, model, images), *_outputs(engine, model, images), *_weights(engine, model, images)]


def _plain(engine: str | BuildRunner, model: InstrumentedModel, images: NDArray) -> Iterator[str]:
    feeds, name = {model.input_name: images}, model.output_name
    with model.open_plain(engine) as runner:
        first = runner.run(feeds)[name]
        kept = first.copy()
        if not _same(runner.run(feeds)[name], kept):
            yield "the same feeds give other bits in a second run"
        runner.run({model.input_name: images[::-1].copy()})
        if not _same(first, kept):
            yield "a later run overwrites the outputs of an earlier one"
        try:
            runner.run({model.input_name: images[..., :-1].copy()})
            yield "images of another shape are not refused with EngineError"
        except EngineError:
            pass
        digest = runner.info.hash
    try:
        runner.run(feeds)
        yield "a closed engine runs"
    except EngineError:
        pass
    with model.open_plain(engine) as again:
        if again.info.hash != digest:
            yield "an engine that is built again has another hash"
        if not _same(again.run(feeds)[name], kept):
            yield "an engine that is built again gives other bits"


def _outputs(engine: str | BuildRunner, model: InstrumentedModel, images: NDArray) -> Iterator[str]:
    """Faults in the output's own port: every operation against the NumPy reference."""
    name = model.output_name
    if name not in model.sites.ports:
        return
    index = np.arange(len(images), dtype=np.int64)
    with model.open_twin(engine) as twin:
        golden = twin.run(model.feeds(images))[name]
        elements = golden[index, index]
        for op in ("identity", "flip", "stuck0", "stuck1"):
            for bit in _BITS if op != "identity" else (None,):
                masks = masks_for(op, model.sites[name].format, bit)
                wanted = golden.copy()
                wanted[index, index] = corrupt(elements, *(np.full(len(images), mask, np.uint32) for mask in masks))
                faulty = twin.run(model.feeds(images, model.fault(name, index, masks, elements)))[name]
                if not _same(faulty, wanted):
                    yield f"{op} of bit {bit} in {name} is not what the NumPy reference makes of it"


def _weights(engine: str | BuildRunner, model: InstrumentedModel, images: NDArray) -> Iterator[str]:
    feeds, name = {model.input_name: images}, model.output_name
    with model.open_plain(engine, mutable_weights=True) as runner:
        if not isinstance(runner, WeightInjector):
            return
        golden = runner.run(feeds)[name].copy()
        for site in (site for site in model.sites if site.where == "weight"):
            try:
                with faulty_weight(runner, site.tensor, 0, masks_for("flip", site.format, site.format.bits - 2)):
                    faulty = runner.run(feeds)[name]
            except TestbedError:  # weights that an engine refuses are told and left out by a campaign
                continue
            if _same(faulty, golden):
                yield f"a fault in {site.name} has no effect"
            if not _same(runner.run(feeds)[name], golden):
                yield f"{site.name} is not restored"
                return


def _same(a: NDArray, b: NDArray) -> bool:
    return a.shape == b.shape and bool((as_words(a) == as_words(b)).all())
