"""A study in class space as tables: one row per number, with its interval and the images behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from testbed.analysis.shares import MeanEstimate
from testbed.sensitivity.class_space.explain.curves import PerturbationCurve
from testbed.sensitivity.class_space.identifiability import Identifiability
from testbed.sensitivity.class_space.memories import Memories, TopMemories
from testbed.sensitivity.class_space.perturbation import PerturbationEffect
from testbed.sensitivity.class_space.probe import ProbeAccuracy
from testbed.sensitivity.class_space.study import ClassSpaceStudy

Row = dict[str, Any]
"""Column -> text or number; a number that is not defined is None."""


def tables_of(study: ClassSpaceStudy) -> dict[str, list[Row]]:
    """Table name -> rows, of what was measured."""
    tables: dict[str, list[Row]] = {}
    if study.identifiability is not None:
        tables["identifiability"] = [
            *_identifiability_rows("trained", study.identifiability),
            *_identifiability_rows("random", study.random_weights),
        ]
        tables["similarity_change"] = list(_change_rows(study.identifiability))
        tables["residual_match"] = list(_match_rows(study.identifiability))
    if study.memories is not None:
        tables["class_value_agreement"] = list(_class_value_rows(study.memories))
        tables["key_value_agreement"] = list(_key_value_rows(study.memories))
    if study.perturbations is not None:
        tables["perturbation"] = list(_perturbation_rows(study.perturbations))
    if study.curves is not None:
        tables["explanation"] = list(_curve_rows(study.curves))
        tables["explanation_area"] = list(_area_rows(study.curves))
    if study.probes is not None:
        tables["probe"] = list(_probe_rows(study.probes))
    return tables


def memory_tables_of(study: ClassSpaceStudy) -> dict[str, list[Row]]:
    """The memories one by one: too long for a summary."""
    if study.memories is None:
        return {}
    names = study.plan.classes
    return {
        "top_memories": [row for top in study.memories.top for row in _top_rows(top, names)],
        "memory_classes": [row for top in study.memories.top for row in _memory_rows(top, names)],
    }


def record_of(study: ClassSpaceStudy) -> dict[str, Any]:
    """The whole study in JSON's own types, but for the single memories."""
    plan = study.plan
    record: dict[str, Any] = {
        "run": plan.run,
        "data": plan.data,
        "classes": len(plan.classes),
        "settings": asdict(study.settings),
        "left_out": plan.left_out,
    }
    if study.identifiability is not None:
        mean, rate = study.identifiability.chance
        record["accuracy"] = estimate_columns(study.identifiability.accuracy)
        record["chance"] = {"identifiability": mean, "rate": rate}
    return record | tables_of(study)


def estimate_columns(estimate: MeanEstimate) -> Row:
    """The columns value, low, high and images of a mean; the value is None where no image was counted."""
    return asdict(estimate) | {"value": _number(estimate.value)}


def _identifiability_rows(weights: str, measured: Identifiability | None) -> Iterator[Row]:
    for entry in () if measured is None else measured.states:
        key = {"weights": weights, "block": entry.block, "state": entry.state, "tokens": entry.tokens}
        for measure in ("identifiability", "rate", "images_with_one"):
            yield key | {"measure": measure} | estimate_columns(getattr(entry, measure))


def _change_rows(measured: Identifiability) -> Iterator[Row]:
    for entry in measured.changes:
        key = {"block": entry.block, "branch": entry.branch, "tokens": entry.tokens}
        yield key | estimate_columns(entry.rises)


def _match_rows(measured: Identifiability) -> Iterator[Row]:
    for entry in measured.matches:
        key = {"block": entry.block, "source": entry.source, "tokens": entry.tokens}
        yield key | estimate_columns(entry.matches)


def _class_value_rows(memories: Memories) -> Iterator[Row]:
    for entry in memories.class_value:
        row = {name: value for name, value in asdict(entry).items() if name != "per_class"}
        yield row | {"classes": len(entry.per_class)}


def _key_value_rows(memories: Memories) -> Iterator[Row]:
    for entry in memories.key_value:
        key = {"block": entry.block, "branch": entry.branch, "tokens": entry.tokens, "chance": entry.chance}
        for which, estimate in (("true", entry.agreement), ("other", entry.other_class)):
            yield key | {"class": which} | estimate_columns(estimate)


def _top_rows(top: TopMemories, names: Sequence[str]) -> Iterator[Row]:
    for label, (memories, cosines) in enumerate(zip(top.memories, top.cosines, strict=True)):
        for rank, (memory, cosine) in enumerate(zip(memories.tolist(), cosines.tolist(), strict=True), 1):
            key = {"block": top.block, "branch": top.branch, "class": names[label]}
            yield key | {"rank": rank, "memory": memory, "cosine": cosine}


def _memory_rows(top: TopMemories, names: Sequence[str]) -> Iterator[Row]:
    for memory, label in enumerate(top.class_of_memory.tolist()):
        yield {"block": top.block, "branch": top.branch, "memory": memory, "class": names[label]}


def _perturbation_rows(effects: Iterable[PerturbationEffect]) -> Iterator[Row]:
    for effect in effects:
        for measure in ("accuracy", "accuracy_change"):
            key = {"perturbation": effect.name, "measure": measure, "tokens": ""}
            yield key | estimate_columns(getattr(effect, measure))
        for entry in effect.last_block:
            for measure in ("identifiability", "rate", "images_with_one"):
                key = {"perturbation": effect.name, "measure": measure, "tokens": entry.tokens}
                yield key | estimate_columns(getattr(entry, measure))


def _curve_rows(curves: Iterable[PerturbationCurve]) -> Iterator[Row]:
    for curve in curves:
        for dropped, accuracy in zip(curve.dropped, curve.accuracy, strict=True):
            key = {"method": curve.method, "order": curve.order, "dropped": dropped}
            yield key | estimate_columns(accuracy)


def _area_rows(curves: Iterable[PerturbationCurve]) -> Iterator[Row]:
    for curve in curves:
        for measure in ("area", "better_than_random"):
            key = {"method": curve.method, "order": curve.order, "measure": measure}
            yield key | estimate_columns(getattr(curve, measure))


def _probe_rows(probes: Iterable[ProbeAccuracy]) -> Iterator[Row]:
    for entry in probes:
        key = {"block": entry.block, "state": entry.state, "position": entry.position}
        yield key | {"shots": entry.shots} | estimate_columns(entry.accuracy)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
