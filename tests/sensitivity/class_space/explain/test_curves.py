import numpy as np
import pytest
import torch

from testbed.sensitivity.class_space.explain import curves as curves_module
from testbed.sensitivity.class_space.explain.curves import (
    DROPPED,
    area_under_curve,
    perturbation_curves,
    tokens_left,
)


def test_the_area_is_the_trapezoids():
    values = np.random.default_rng(0).random((5, len(DROPPED)))
    steps = np.diff(DROPPED)
    by_hand = ((values[:, 1:] + values[:, :-1]) / 2 * steps).sum(1) / 0.9
    assert area_under_curve(values) == pytest.approx(by_hand)
    assert area_under_curve(np.ones(10)) == pytest.approx(1)


def test_tokens_go_in_the_order_of_their_relevance():
    relevance = torch.tensor([[0.1, 0.9, 0.5, 0.9, -2.0]])
    assert tokens_left(relevance, "most_first", 0.0).tolist() == [[0, 1, 2, 3, 4]]
    assert tokens_left(relevance, "most_first", 0.2).tolist() == [[0, 2, 3, 4]]
    assert tokens_left(relevance, "most_first", 0.6).tolist() == [[0, 4]]
    assert tokens_left(relevance, "most_first", 0.9).tolist() == [[4]]  # one stays
    assert tokens_left(relevance, "least_first", 0.4).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("changes", [{}, {"pooling": "mean", "cls_token": False}])
def test_curves_are_those_of_models_given_fewer_tokens(make_model, make_split, monkeypatch, changes):
    """One image at a time, with a relevance that is known."""
    model, split = make_model(patch=2, **changes), make_split(12)

    def relevance(model, images, classes):
        return torch.arange(16.0).expand(len(images), -1)

    monkeypatch.setattr(curves_module, "explainers", lambda seed: {"rollout": relevance, "random": relevance})
    curves = {(curve.method, curve.order): curve for curve in perturbation_curves(model, split)}
    first = int(model.config.cls_token)
    for order in ("most_first", "least_first"):
        curve = curves["rollout", order]
        by_hand = []
        for share in DROPPED:
            gone = round(share * 16)
            left = range(16 - gone) if order == "most_first" else range(gone, 16)
            hits = []
            for row in range(12):
                with torch.no_grad():
                    tokens = model.embedded(torch.from_numpy(split.batch([row])))
                    x = tokens[:, [*range(first), *(token + first for token in left)]]
                    for block in model.block:
                        x = block(x)
                    hits.append(model.classified(x).argmax().item() == split.labels[row])
            by_hand.append(np.mean(hits))
        assert [estimate.value for estimate in curve.accuracy] == pytest.approx(by_hand)
        assert curve.area.value == pytest.approx(np.trapezoid(by_hand, DROPPED) / 0.9)
        assert {estimate.images for estimate in curve.accuracy} == {12}
        assert curve.better_than_random.value == 0


def test_better_is_lower_where_the_most_relevant_go_first(make_model, make_split):
    model, split = make_model(patch=2), make_split(30)
    curves = {(curve.method, curve.order): curve for curve in perturbation_curves(model, split, explained="predicted")}
    assert len(curves) == 8
    for (method, order), curve in curves.items():
        difference = curve.area.value - curves["random", order].area.value
        better = curve.better_than_random
        assert better.value == pytest.approx(difference if order == "least_first" else -difference), method
        assert better.low <= better.value <= better.high
    assert not model.training
