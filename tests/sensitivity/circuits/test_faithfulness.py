"""Faithfulness against ablation by hooks written here, areas against known polygons, intervals against SciPy's bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from testbed.core.errors import UsageError
from testbed.models.vit import ViT, taps
from testbed.sensitivity.circuit_study.curves import CurveSettings, circuit_count, measure_curves, random_orders
from testbed.sensitivity.circuits.ablation import Replacements, logits_of
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.circuits.faithfulness import (
    CircuitTask,
    circuit_sizes,
    faithfulness,
    model_distance,
    performance_ratio,
)
from tests.support.taught import teach


def values_of(model: ViT, images: Tensor) -> dict[str, Tensor]:
    """Contexts and activations."""
    seen: dict[str, Tensor] = {}
    sites = [tap for site, tap in taps(model).items() if site.endswith((".attn.context", ".mlp.gelu"))]
    handles = [tap.register_forward_hook(lambda tap, _, out: seen.update({tap.site: out.detach()})) for tap in sites]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def ablated_logits(model: ViT, images: Tensor, gone: list[Component], instead: dict[str, Tensor]) -> Tensor:
    """Logits with the columns of these components overwritten, one hook each."""
    handles = []
    for part in gone:
        width = model.config.head_width
        columns = [c for head in part.heads for c in range(head * width, (head + 1) * width)] or list(part.neurons)
        site = f"block.{part.block}.attn.context" if part.kind == "head" else f"block.{part.block}.mlp.gelu"

        def overwrite(_m: Any, _i: Any, out: Tensor, site: str = site, columns: list[int] = columns) -> Tensor:
            out = out.clone()
            out[..., columns] = instead[site][..., columns]
            return out

        handles.append(taps(model)[site].register_forward_hook(overwrite))
    with torch.no_grad():
        logits = model(images).double()
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize("corrupt", ["other_class", "mean"])
def test_faithfulness_is_that_of_direct_ablation(
    make_model: Callable[..., ViT], analysis: AnalysisSet, ablation: Any, corrupt: Any
) -> None:
    model, images = make_model(pooling="mean", final_norm="none"), analysis
    biases = [p for name, p in model.named_parameters() if name.endswith(("attn.proj.bias", "fc2.bias"))]

    def hold() -> None:  # zero ablation of a whole branch takes its bias with it, which hooks on values do not
        for bias in biases:
            bias.zero_()

    teach(model, images, hold)
    parts = components(model.config, ["head", "chunk"], chunks=2)
    order = [parts[n] for n in (3, 0, 6, 1, 7, 2, 5, 4)]
    replaced = Replacements.of(model, images, ablation, corrupt=corrupt)
    task = CircuitTask.of(model, images, "logit_difference", replaced, corrupt=corrupt)
    settings = CurveSettings((0, 2, 5, 8), orders=2)
    curve = measure_curves(task, parts, {"given": order}, settings)[0]

    clean = values_of(model, images.images)
    if ablation == "zero":
        instead = {site: torch.zeros_like(value) for site, value in clean.items()}
    elif ablation == "mean":
        instead = {site: value.mean(0, keepdim=True).expand_as(value) for site, value in clean.items()}
    else:
        instead = values_of(model, images.corrupted(corrupt))
    full = ablated_logits(model, images.images, [], instead)
    if corrupt == "other_class":
        against = images.labels[images.partners(0)]
    else:
        others = full.clone()
        others[torch.arange(len(full)), images.labels] = -torch.inf
        against = others.argmax(1)

    def metric(gone: list[Component]) -> float:
        logits = ablated_logits(model, images.images, gone, instead)
        rows = torch.arange(len(logits))
        return float((logits[rows, images.labels] - logits[rows, against]).mean())

    empty, whole = metric(order), metric([])
    for point in curve.points:
        assert point.metric == pytest.approx(metric(order[point.size :]), abs=1e-5)
        assert point.faithfulness == pytest.approx((metric(order[point.size :]) - empty) / (whole - empty), abs=1e-4)
        assert point.share == point.size / 8
        assert point.low - 1e-9 <= point.faithfulness <= point.high + 1e-9


def test_log_probability_is_that_of_the_label(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model = make_model()
    replaced = Replacements.of(model, analysis, "zero")
    task = CircuitTask.of(model, analysis, "log_probability", replaced)
    (everything,) = task.nested(components(model.config), [len(components(model.config))])
    wanted = -torch.nn.functional.cross_entropy(logits_of(model, analysis), analysis.labels, reduction="none")
    np.testing.assert_allclose(task.measure(everything), wanted.numpy(), atol=1e-6)
    with pytest.raises(UsageError, match="unknown metric"):
        CircuitTask.of(model, analysis, "accuracy", replaced)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("f", "cpr", "cmd"),
    [
        ([0, 1, 1, 1], 0.875, 0.125),  # faithful from a quarter of the components on
        ([0, 0.25, 0.5, 1], 0.5, 0.5),  # the diagonal
        ([0, 0, 0, 1], 0.25, 0.75),  # all are needed
        ([0, 2, 1, 1], 1.125, 0.375),  # too much: CPR rewards it, CMD does not
    ],
)
def test_areas_of_known_polygons(f: list[float], cpr: float, cmd: float) -> None:
    shares, heights = np.array([0, 0.25, 0.5, 1]), np.array(f, float)
    assert performance_ratio(shares, heights) == pytest.approx(cpr)
    assert model_distance(shares, heights) == pytest.approx(cmd)
    widths = zip(shares, shares[1:], heights, heights[1:], strict=False)  # the benchmark's own loop
    told = [((b - a) * (x + y) / 2, (b - a) * (abs(1 - x) + abs(1 - y)) / 2) for a, b, x, y in widths]
    assert (performance_ratio(shares, heights), model_distance(shares, heights)) == pytest.approx(np.sum(told, axis=0))


def test_sizes_are_from_none_to_all_and_each_once() -> None:
    assert circuit_sizes(66, (0.001, 0.01, 0.5, 0.9, 1)) == (0, 1, 33, 59, 66)
    assert circuit_sizes(2) == (0, 1, 2)
    with pytest.raises(UsageError, match=r"from 0 to 1, not 1\.5"):
        circuit_sizes(4, (1.5,))


def test_intervals_are_those_of_a_bootstrap_over_images(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model, images = make_model(pooling="mean", final_norm="none"), analysis
    teach(model, images)
    parts = components(model.config, ["head", "chunk"], chunks=2)
    task = CircuitTask.of(model, images, "logit_difference", Replacements.of(model, images, "zero"), corrupt="mean")
    settings = CurveSettings((0, 2, 4, 8), orders=3, seed=5)
    curve, chance = measure_curves(task, parts, {"given": parts}, settings)
    shares = np.array(settings.sizes) / 8

    def areas(order: list[Component]) -> np.ndarray:
        return np.stack([task.measure(kept) for kept in task.nested(order, settings.sizes)])

    values = areas(parts)
    drawn = [areas(order) for order in random_orders(parts, settings)]

    def cpr(rows: np.ndarray, metric: np.ndarray = values) -> float:
        return float(performance_ratio(shares, faithfulness(metric[:, rows.astype(int)].mean(-1))))

    assert curve.cpr.value == pytest.approx(cpr(np.arange(12)))
    wanted = stats.bootstrap(
        (np.arange(12),), cpr, n_resamples=2000, method="percentile", vectorized=False, random_state=1
    ).confidence_interval
    width = wanted.high - wanted.low
    assert curve.cpr.low == pytest.approx(wanted.low, abs=0.1 * width)
    assert curve.cpr.high == pytest.approx(wanted.high, abs=0.1 * width)
    means = [cpr(np.arange(12), metric) for metric in drawn]
    assert chance.cpr.value == pytest.approx(np.mean(means))
    assert curve.cpr_gain is not None
    assert curve.cpr_gain.value == pytest.approx(curve.cpr.value - np.mean(means))
    assert curve.random_as_good == np.mean(np.array(means) >= curve.cpr.value)
    assert (chance.cpr_gain, chance.verdict) == (None, "")


def test_every_circuit_is_measured_once(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model, images = make_model(pooling="mean", final_norm="none"), analysis
    teach(model, images)
    parts = components(model.config)
    task = CircuitTask.of(model, images, "logit_difference", Replacements.of(model, images, "zero"), corrupt="mean")
    settings, steps = CurveSettings(circuit_sizes(len(parts)), orders=2), list[int]()
    measure_curves(task, parts, {"one": parts, "other": parts[::-1]}, settings, steps.append)
    assert sum(steps) == circuit_count(2, settings)


def test_a_model_that_needs_no_component_has_no_faithful_circuits(
    make_model: Callable[..., ViT], analysis: AnalysisSet
) -> None:
    model = make_model(pooling="mean")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("block.") and ("proj" in name or "fc2" in name):
                parameter.zero_()
    replaced, parts = Replacements.of(model, analysis, "zero"), components(model.config)
    task = CircuitTask.of(model, analysis, "logit_difference", replaced, corrupt="mean")
    with pytest.raises(UsageError, match="not better at its task"):
        measure_curves(task, parts, {"any": parts}, CurveSettings((0, 2, 8), orders=2))
