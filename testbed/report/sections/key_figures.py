"""The numbers at the head of the page, and whether the campaign's gates held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from testbed.analysis.stats import wilson
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import (
    MEASURE_NAMES,
    count,
    interval,
    model_name,
    percent,
    rate_only,
    sample,
    small,
)
from testbed.report.read.evidence import Evidence
from testbed.report.sections.rates import PLACES


@dataclass(frozen=True)
class KeyFigure:
    """``good`` is None where there is no bound to meet."""

    name: str
    value: str
    note: str
    good: bool | None = None


def key_figures(evidence: Evidence) -> list[KeyFigure]:
    summary = evidence.summary
    faults = KeyFigure("Faults", count(summary.faults), f"{count(summary.rows)} rows, one per fault and image")
    figures = [faults, *_rates(evidence), _accuracy(evidence), _zero_fault(evidence), _drift(evidence)]
    if speed := summary.injections_per_second:
        threads = summary.engine.threads
        note = f"{threads} {'thread' if threads == 1 else 'threads'}, batch {summary.engine.batch}"
        figures.append(KeyFigure("Injections per second", count(round(speed)), note))
    return figures


def _rates(evidence: Evidence) -> Iterator[KeyFigure]:
    """Rates of the model; of the attention module where the model was not struck."""
    m = evidence.marginals
    target, measure = ("model", "sdc1") if any(m.ops("model", where) for where in PLACES) else ("attention", "outside")
    for where, title in PLACES.items():
        op = m.main_op(target, where)
        if op and (estimate := m.estimate(target, where, op, measure)):
            yield _rate_figure(f"{MEASURE_NAMES[measure]}, {title.lower()}, {model_name(op)}", estimate)
    op = m.main_op(target, "activation")
    if op and (estimate := m.estimate(target, "activation", op, "nonfinite")):
        yield _rate_figure("nonfinite output, activations", estimate)


def _rate_figure(name: str, estimate: RateEstimate) -> KeyFigure:
    return KeyFigure(name[0].upper() + name[1:], rate_only(estimate), f"{interval(estimate)}, {sample(estimate)}")


def _accuracy(evidence: Evidence) -> KeyFigure:
    """The accuracy with its Wilson interval: a proportion of independent test images."""
    accuracy, images = evidence.summary.model.test_accuracy, evidence.summary.model.test_images
    low, high = wilson(round(accuracy * images), images, evidence.summary.confidence)
    estimate = RateEstimate(accuracy, float(low), float(high), images, images)
    return KeyFigure("Test accuracy", percent(accuracy, 2), f"{interval(estimate)}, {count(images)} test images")


def _zero_fault(evidence: Evidence) -> KeyFigure:
    rows, wrong = evidence.summary.zero_fault.rows, evidence.summary.zero_fault.mismatches
    note = f"{count(wrong)} of {count(rows)} fault-free rows differ from the golden"
    return KeyFigure("Zero-fault gate", f"{count(wrong)} differ" if wrong else "exact", note, wrong == 0)


def _drift(evidence: Evidence) -> KeyFigure:
    largest, bound = evidence.summary.drift.max_abs_diff, evidence.summary.drift.bound
    note = f"largest |difference|; bound {small(bound)}"
    return KeyFigure("Drift, plain to instrumented", small(largest), note, largest <= bound)
