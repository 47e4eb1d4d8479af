"""What a protected file has to keep, on real images that it was not calibrated on, before anybody may use it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from pydantic import JsonValue

from testbed.analysis.stats import wilson
from testbed.core.errors import GateFailed
from testbed.core.protected import DETECTED
from testbed.data import Split
from testbed.protect.build import Protected
from testbed.protect.canaries.fly import Canary, fly
from testbed.protect.checks.activations import is_computed_twice
from testbed.protect.checks.alarmed import alarmed_checks
from testbed.protect.checks.relation import RECOMPUTED
from testbed.protect.contract import Applied, ProtectedPlace
from testbed.protect.graph import GraphEditor
from testbed.protect.observe import Extremes, extremes, run_all
from testbed.protect.passes.duplicate import copies, standing_in
from testbed.protect.tier_alarms import OneSidedBounds, TierAlarms, alarms_by_tier

MARGINS = (1.0, 1.1, 1.3, 1.5, 2.0)
"""What a range guard's margin is tried at, for the images that it would clip."""
BOUND = 1e-3
"""How far a detecting pass may move a logit, of the largest logit: what other fusions round differently."""


@dataclass(frozen=True)
class Unchanged:
    """A protected engine beside the plain one, without a fault, on n unseen images.

    identical: images whose outputs are the same bit for bit; largest: difference of any logit; bound: what was allowed,
    None where a pass may correct; top1_agreement: share; accuracy with its interval, of both; false_alarms: images
    without a fault that raised one, with the one-sided upper bound of their rate; alarms_by_tier: the same by the plain
    engine's margins.
    """

    engine: str
    n: int
    identical: int
    largest: float
    bound: float | None
    top1_agreement: float
    accuracy: tuple[float, float, float]
    accuracy_before: tuple[float, float, float]
    false_alarms: int | None
    false_alarm_bound: float | None
    alarms_by_tier: tuple[TierAlarms, ...] = ()


@dataclass(frozen=True)
class MarginTried:
    """A range guard's margin, and the share of unseen images of which it would clip a value, with its interval."""

    margin: float
    clipped: int
    n: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Ensured:
    """All that was checked of a file."""

    unchanged: tuple[Unchanged, ...]
    canaries: tuple[Canary, ...]
    margins: tuple[MarginTried, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready."""
        return {
            "unchanged": [asdict(each) for each in self.unchanged],
            "canaries": [asdict(each) for each in self.canaries],
            "margins": [asdict(each) for each in self.margins],
        }


def ensure(
    plain: ModelProto,
    protected: Protected,
    images: Split,
    engines: Sequence[str],
    precision: str,
) -> Ensured:
    """Hold a protected file against its plain one, on images that it was not calibrated on.

    Raises GateFailed, saying which pass and what to do, where outputs move further than a pass may move them, where
    accuracy leaves its interval, where an alarm is raised without a fault, and where a check or copy does not survive an
    engine.
    """
    unchanged = tuple(_compared(plain, protected, images, engine, precision) for engine in engines)
    image = images.batch([0])
    canaries = tuple(fly(protected.proto, protected.applied, image, engine, precision) for engine in engines)
    _check_copies(protected)
    return Ensured(unchanged, canaries, _margins(plain, protected.applied, images, engines[0], precision))


def _compared(plain: ModelProto, protected: Protected, images: Split, engine: str, precision: str) -> Unchanged:
    name = plain.graph.output[0].name
    before = run_all(plain, images, engine, precision)[name]
    results = run_all(protected.proto, images, engine, precision)
    after = results[name]
    raised = results[DETECTED].astype(bool) if DETECTED in results else None
    alarms = None if raised is None else int(raised.sum())
    corrects = any(done.name == "range" or done.settings.get("vote") for done in protected.applied)
    difference = np.abs(after.astype(np.float64) - before)
    bound = None if corrects else BOUND * float(np.abs(before).max())
    largest = float(np.nan_to_num(difference, nan=np.inf).max())
    if bound is not None and largest > bound:
        raise GateFailed(
            f"on {engine} passes that only detect move a logit by {largest:.3g}, more than {bound:.3g}: leave the engine out"
        )
    n = len(images)
    if alarms:
        by_check = alarmed_checks(protected.proto, protected.applied, images, engine, precision)
        raise GateFailed(
            f"on {engine} {alarms} of {n:,} unseen images raise an alarm without a fault, most at {next(iter(by_check), '?')}:"
            " widen the thresholds (--factor), measure them on more images (--calibration-images), or leave that site out"
            " (--where '*,!SITE')"
        )
    right = [int((outputs.argmax(1) == images.labels).sum()) for outputs in (after, before)]
    shares = [_share(count, n) for count in right]
    if not shares[1][1] <= shares[0][0]:
        raise GateFailed(
            f"on {engine} accuracy falls from {100 * shares[1][0]:.2f} % to {100 * shares[0][0]:.2f} %, out of its interval:"
            " widen the range (--margin), or guard fewer sites"
        )
    return Unchanged(
        engine=engine,
        n=n,
        identical=int((after.view(np.uint32) == before.view(np.uint32)).all(axis=1).sum()),
        largest=largest,
        bound=bound,
        top1_agreement=float((after.argmax(1) == before.argmax(1)).mean()),
        accuracy=shares[0],
        accuracy_before=shares[1],
        false_alarms=alarms,
        false_alarm_bound=None if alarms is None else OneSidedBounds.of(alarms, n).bound_95,
        alarms_by_tier=() if raised is None else alarms_by_tier(raised, before, images.labels),
    )


def _share(count: int, n: int) -> tuple[float, float, float]:
    low, high = wilson(count, n)
    return count / n, float(low), float(high)


def _check_copies(protected: Protected) -> None:
    """ONNX Runtime's optimised graph still holds every copy: it merges nodes of the same inputs."""
    names = [p.name for done in protected.applied if done.name == "duplicate" for p in done.places]
    twice = [p.name for done in protected.applied for p in done.places if p.kind == RECOMPUTED]
    if not names and not twice:
        return
    optimised = optimised_by_onnxruntime(protected.proto)
    for name in twice:
        if not is_computed_twice(optimised, name):
            raise GateFailed(f"checksum: ONNX Runtime computes {name} once: leave it out, or use --activations range")
    votes = any(spot.kind == "vote" for done in protected.applied for spot in done.places)
    if not votes and (
        tensor := standing_in(optimised)
    ):  # a vote takes its copies: canaries tell whether they are merged
        raise GateFailed(f"duplicate: ONNX Runtime merges a part with its copy: the network goes on from {tensor}")
    held, made = copies(optimised, names), copies(protected.proto, names)
    for name in names:
        if held[name] < made[name]:
            raise GateFailed(
                f"duplicate: ONNX Runtime keeps {held[name]} of the {made[name]} products in the copies of {name}"
            )


def optimised_by_onnxruntime(proto: ModelProto) -> ModelProto:
    """The graph that ONNX Runtime runs a file as, on a CPU."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "optimised.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = file
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(file)


def _margins(
    plain: ModelProto, applied: Sequence[Applied], images: Split, engine: str, precision: str
) -> tuple[MarginTried, ...]:
    """How many unseen images each margin would clip a value of, from their extremes in the plain engine."""
    guards = [(p, done) for done in applied if done.name == "range" for p in done.places]
    if not guards:
        return ()
    sites = GraphEditor(plain).sites
    tensors = [sites[guard.name].tensor for guard, _ in guards]
    seen = extremes(plain, tensors, images, engine, precision)
    return tuple(_tried(margin, guards, [seen[tensor] for tensor in tensors]) for margin in MARGINS)


def _tried(margin: float, guards: Sequence[tuple[ProtectedPlace, Applied]], seen: Sequence[Extremes]) -> MarginTried:
    clipped = np.zeros(len(seen[0].low), bool)
    for (guard, done), extreme in zip(guards, seen, strict=True):
        low, high = _at_margin(guard, done, margin)
        clipped |= (extreme.low < low) | (extreme.high > high)
    count, n = int(clipped.sum()), len(clipped)
    return MarginTried(margin, count, n, *_share(count, n))


def _at_margin(guard: ProtectedPlace, done: Applied, margin: float) -> tuple[float, float]:
    """A guard's bounds, had it another margin."""
    assert guard.low is not None
    assert guard.high is not None
    low, high = guard.low, guard.high
    middle, half = (low + high) / 2, (high - low) / 2 / float(str(done.settings["margin"]))
    return middle - half * margin, middle + half * margin
