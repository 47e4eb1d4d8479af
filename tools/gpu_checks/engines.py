"""One engine against another on the CPU: it builds, computes the model, and is struck where it is told to be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from testbed import TestbedError
from testbed.testing import (
    FP32,
    InstrumentedModel,
    PortFeed,
    Runner,
    WeightInjector,
    as_words,
    available,
    faulty_weight,
    masks_for,
    precisions_of,
    to_words,
)

from .common import Section, Setting, require
from .subject import SMALL, exported, random_subject

NO_SITE = -1  # of a point that is not used
BATCH, POINTS = 32, 3  # rows, and the most struck elements in one
OUTPUT = "head"  # the site that is the model's output: what is written there must come out, bit for bit
TWO = 0x40000000  # 2.0: not a value that these weights hold, and one that lets no engine overflow
Op = Literal["flip", "stuck0", "stuck1", "random"]
_OF_BITS: tuple[Op, ...] = ("flip", "stuck0", "stuck1")
BOUND = 1e-3  # |d| <= BOUND * (1 + |golden|), engine against engine


def torch_cuda(setting: Setting) -> Section:
    """Without a GPU, the same engine on the CPU."""
    return steps(setting, setting.backend)


def ort_cuda(setting: Setting) -> Section:
    """And a campaign against ort-cpu."""
    found = steps(setting, "ort-cuda")
    setting.tell(found)
    from .campaigns import concordance

    compared = concordance(setting, ("ort-cpu", "ort-cuda"), same=False)
    reasons = [str(part["reason"]) for part in (found, compared) if not part["ok"]]
    good: Section = {"ok": not reasons, **({"reason": "; ".join(reasons)} if reasons else {})}
    return {**found, **good, "campaign": compared}


def tensorrt(setting: Setting) -> Section:
    return steps(setting, "tensorrt")


def tensorrt_rtx(setting: Setting) -> Section:
    return steps(setting, "tensorrt-rtx")


def steps(setting: Setting, backend: str) -> Section:
    """Each step on its own: what fails is told, and the next one is tried all the same. The weights are random."""
    require(backend)
    subject = _Subject(setting, backend)
    done: Section = {"backend": backend, "reference": subject.reference}
    failed = []
    for step in (_plain, _activation_faults, _weight_faults, _precisions):
        name = step.__name__.lstrip("_")
        done[name] = _told(step, subject)
        if not done[name]["ok"]:
            failed.append(f"{name}: {done[name]['reason']}")
        setting.tell(done)
    return {"ok": not failed, **({"reason": "; ".join(failed)} if failed else {}), **done}


class _Subject:
    """The digits model with random weights, plain and as a twin, and images. reference: ONNX Runtime where it is here, or
    PyTorch, on the CPU."""

    def __init__(self, setting: Setting, backend: str) -> None:
        self.setting, self.reference_model = setting, random_subject(setting, SMALL).reference
        self.backend = backend
        self.made = InstrumentedModel.of_onnx(exported(setting, SMALL, self.reference_model).read_bytes())
        self.reference = "ort-cpu" if available("ort-cpu")[0] else "torch"
        self.images = np.random.default_rng(0).standard_normal((BATCH, 1, 8, 8)).astype(np.float32)

    def open_plain(self, backend: str | None = None, **options: Any) -> Runner:
        return self.made.open_plain(backend or self.backend, max_batch=BATCH, max_points=POINTS, **options)

    def open_twin(self, backend: str | None = None) -> Runner:
        return self.made.open_twin(backend or self.backend, max_batch=BATCH, max_points=POINTS)


def _told(step: Callable[[_Subject], Section], subject: _Subject) -> Section:
    try:
        return step(subject)
    except TestbedError as error:
        return {"ok": False, "reason": str(error)}


def _plain(subject: _Subject) -> Section:
    """Built, then opened again (from the cached engine file, where there is one), and run at several batch sizes."""
    with subject.open_plain(subject.reference) as reference:
        golden = reference.run({"image": subject.images})[OUTPUT]
    seconds, outputs, alone, hashes = [], [], [], []
    for _ in range(2):
        start = time.perf_counter()
        with subject.open_plain() as runner:
            seconds.append(time.perf_counter() - start)
            hashes.append(runner.info.hash)
            outputs += [runner.run({"image": subject.images})[OUTPUT] for _ in range(2)]
            alone.append(runner.run({"image": subject.images[:1]})[OUTPUT])
    worst = max(_worst(outputs[0], golden), _worst(alone[-1], golden[:1]))
    same = all(_same(output, outputs[0]) for output in outputs)
    good = worst <= BOUND and same and hashes[0] == hashes[1]
    return {
        "ok": good,
        **({} if good else {"reason": f"off by {worst:.3g}, same bits {same}, engine hashes {' '.join(hashes)}"}),
        "engine_hash": hashes[0],
        "open_s": seconds,
        "worst": worst,
        "bound": BOUND,
        "same_bits_in_every_run": same,
    }


def _activation_faults(subject: _Subject) -> Section:
    """The twin without faults; every operation and bit in its output; and 2.0 written into every site."""
    ports = subject.made.sites.ports
    with subject.open_twin() as twin, subject.open_twin(subject.reference) as reference:
        idle = twin.run(_feeds(subject, PortFeed.idle(BATCH)))[OUTPUT]
        drift = _worst(idle, reference.run(_feeds(subject, PortFeed.idle(BATCH)))[OUTPUT])
        faults: list[tuple[Op, int | None]] = [(op, bit) for op in _OF_BITS for bit in range(32)]
        faults += [("random", None)] * 32
        wrong = 0
        for start in range(0, len(faults), BATCH):
            wrong += _wrong_words(subject, twin, idle, faults[start : start + BATCH])
        deviations = {site: _written(subject, site, twin, reference) for site in ports}
    worst = max(deviations.values())
    good = not wrong and drift <= BOUND and worst <= BOUND
    reason = f"{wrong} rows with wrong bits, {drift:.3g} off without faults, {worst:.3g} off with them"
    return {
        "ok": good,
        **({} if good else {"reason": reason}),
        "faults": len(faults),
        "rows_with_wrong_bits": wrong,
        "sites": len(deviations),
        "worst_without_faults": drift,
        "worst_with_faults": worst,
        "worst_site": max(deviations, key=deviations.__getitem__),
        "bound": BOUND,
    }


def _wrong_words(subject: _Subject, twin: Runner, golden: NDArray, faults: list[tuple[Op, int | None]]) -> int:
    """Rows in which the output is not the golden one with just the struck elements' bits changed: one element in the
    first row, two in the second, and so on up to POINTS, and again."""
    rng = np.random.default_rng(len(faults))
    index = np.argsort(rng.random(golden.shape), axis=1)[:, :POINTS]
    used = np.arange(POINTS) <= np.arange(BATCH)[:, None] % POINTS
    words = rng.integers(0, 1 << 32, BATCH)
    masks = [masks_for(op, FP32, bit, int(word)) for (op, bit), word in zip(faults, words, strict=True)]
    keep, put, turn = (
        np.repeat(column[:, None], POINTS, 1) for column in np.array(masks, np.int64).astype(np.uint32).T
    )
    injected = np.take_along_axis(to_words(golden), index, 1)
    (port,) = subject.made.port_numbers([OUTPUT])
    feed = PortFeed(np.where(used, port, NO_SITE), index, keep, put, turn, injected)
    found = twin.run(_feeds(subject, feed))
    wanted = to_words(golden).copy()
    np.put_along_axis(wanted, index, np.where(used, feed.faulty, injected), 1)
    live = subject.made.live_words(found, feed)
    return int(((to_words(found[OUTPUT]) != wanted).any(1) | (used & (live != injected)).any(1)).sum())


def _written(subject: _Subject, site: str, twin: Runner, reference: Runner) -> float:
    """How far the outputs of both engines are apart with 2.0 in one element of the site, another one in every row."""
    rng = np.random.default_rng(len(site))
    index = rng.integers(0, subject.made.sites[site].elements, BATCH)
    words = np.full(BATCH, TWO, np.uint32)
    feeds = _feeds(subject, PortFeed.writing(subject.made.port_numbers([site] * BATCH), index, words))
    return _worst(twin.run(feeds)[OUTPUT], reference.run(feeds)[OUTPUT])


def _feeds(subject: _Subject, ports: PortFeed) -> dict[str, NDArray]:
    return subject.made.feeds(subject.images, ports)


def _weight_faults(subject: _Subject) -> Section:
    """2.0 written into the first element of every weight in turn, undone each time. Opening checks that nothing is lost
    before any fault (TensorRT's null output). Weights that the engine refuses to change are told, and are no failure."""
    feeds = {"image": subject.images}
    refused: dict[str, str] = {}
    unheard, off = [], {}
    weights = [site for site in subject.made.sites if site.where == "weight"]
    with (
        subject.open_plain(mutable_weights=True) as runner,
        subject.open_plain(subject.reference, mutable_weights=True) as reference,
    ):
        assert isinstance(runner, WeightInjector)
        assert isinstance(reference, WeightInjector)
        golden = runner.run(feeds)[OUTPUT]
        null = _worst(golden, reference.run(feeds)[OUTPUT])
        for site in weights:
            try:
                ours = _faulty(runner, site.tensor, feeds)
            except TestbedError as error:
                refused[site.name] = str(error)
                continue
            if _same(ours, golden):
                unheard.append(site.name)
            off[site.name] = _worst(ours, _faulty(reference, site.tensor, feeds))
        restored = _same(runner.run(feeds)[OUTPUT], golden)
    worst = max(off.values(), default=float("inf"))  # infinite where every weight was refused
    good = restored and not unheard and null <= BOUND and worst <= BOUND
    reason = f"restored {restored}, {null:.3g} off at first, {worst:.3g} off with faults, without effect: {unheard}"
    return {
        "ok": good,
        **({} if good else {"reason": reason}),
        "weights": len(weights),
        "refused": refused,
        "without_effect": unheard,
        "restored_bit_for_bit": restored,
        "null_output_worst": null,
        "worst_with_faults": off,
    }


def _precisions(subject: _Subject) -> Section:
    """The same model in the other number formats, and in them 1.0 written into every site's first element: against PyTorch
    on the CPU, which computes in them too."""
    found: Section = {}
    for precision, bound in (("fp16", 2e-2), ("bf16", 2e-1)):
        if precision not in precisions_of(subject.backend):
            continue
        plain = exported(subject.setting, SMALL, subject.reference_model, precision=precision).read_bytes()
        made = InstrumentedModel.of_onnx(plain, precision=precision)
        (one,) = as_words(np.ones(1, np.float16 if precision == "fp16" else ml_dtypes.bfloat16)).astype(np.uint32)
        sites = list(made.sites.ports)
        named = [sites[row % len(sites)] for row in range(BATCH)]
        written = PortFeed.writing(made.port_numbers(named), np.zeros(BATCH, np.int64), np.full(BATCH, one))
        with (
            made.open_twin(subject.backend, max_batch=BATCH) as runner,
            made.open_twin("torch", max_batch=BATCH) as reference,
        ):
            worst = {}
            for name, feed in (("idle", PortFeed.idle(BATCH)), ("written", written)):
                feeds = made.feeds(subject.images, feed)
                worst[name] = _worst(runner.run(feeds)[made.output_name], reference.run(feeds)[made.output_name])
        found[precision] = {"worst": worst, "bound": bound, "ok": max(worst.values()) <= bound}
    bad = [f"{name} is {max(part['worst'].values()):.3g} off" for name, part in found.items() if not part["ok"]]
    return {"ok": not bad, **({"reason": ", ".join(bad)} if bad else {}), **found}


def _faulty(runner: Any, tensor: str, feeds: dict[str, NDArray]) -> NDArray:
    with faulty_weight(runner, tensor, 0, masks_for("random", FP32, value=TWO)):
        output: NDArray = runner.run(feeds)[OUTPUT]
        return output


def _worst(a: NDArray, b: NDArray) -> float:
    """Largest |a - b| / (1 + |b|); infinite where only one of them is finite."""
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    wide = [np.where(finite, array, 0).astype(np.float64) for array in (a, b)]
    return float((np.abs(wide[0] - wide[1]) / (1 + np.abs(wide[1]))).max(initial=0))


def _same(a: NDArray, b: NDArray) -> bool:
    return np.array_equal(to_words(a), to_words(b))
