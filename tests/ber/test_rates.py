"""Bit-error rates: how many bits flip and where, and a sweep against engines rebuilt from files with those bits flipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.stats import beta

from testbed.analysis.outputs.choice import BIT_ERROR_RATE, choose
from testbed.ber.rates import FlippedRepeats, ber_sweep, flipped, rate_over_repeats
from testbed.ber.run import prepared, run_ber, weight_engine
from testbed.campaign.gate_facts import LeftOut, WeightGate
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import sha256_bytes
from testbed.core.site import Site
from testbed.data import load
from testbed.engines.runner import EngineRequest, open_engine
from tests.support.progress import no_progress

SITES = [Site("a", "weight", (40, 60), transposed=True), Site("b", "weight", (25,), "int8")]
RATES = [0.0, 1e-5, 1e-3, 1e-2]


# ---- which bits flip


def flips(sites: list[Site], rate: float, seed: int, repeat: int = 0) -> dict[str, dict[int, int]]:
    """Tensor -> stored index -> mask."""
    return {
        place.tensor: dict(zip(place.index.tolist(), place.xor_mask.tolist(), strict=True))
        for place in flipped(sites, rate, seed, repeat)
    }


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_flips_lie_within_the_tensors_and_change_nothing_else(rate: float, seed: int) -> None:
    for place in flipped(SITES, rate, seed, 0):
        site = next(site for site in SITES if site.tensor == place.tensor)
        assert len(set(place.index)) == len(place.index)
        assert ((place.index >= 0) & (place.index < site.elements)).all()
        assert place.xor_mask.all()
        assert (place.xor_mask <= 2**site.format.bits - 1).all()
        assert (place.and_mask == 2**32 - 1).all()
        assert not place.or_mask.any()


def test_every_bit_flips_at_rate_one_and_none_at_zero() -> None:
    assert flipped(SITES, 0.0, 1, 0) == []
    assert flips(SITES, 1.0, 1) == {
        "a": dict.fromkeys(range(2400), 2**32 - 1),
        "b": dict.fromkeys(range(25), 2**8 - 1),
    }


def test_the_number_of_flips_is_binomial_and_all_bits_are_alike() -> None:
    site, rate, repeats = Site("w", "weight", (50,)), 0.02, 400
    found = [flips([site], rate, 3, repeat).get("w", {}) for repeat in range(repeats)]
    numbers = np.array([sum(mask.bit_count() for mask in one.values()) for one in found])
    assert abs(numbers.mean() - 1600 * rate) < 5 * np.sqrt(1600 * rate * (1 - rate) / repeats)
    assert abs(numbers.var() / (1600 * rate * (1 - rate)) - 1) < 0.35
    per_bit = np.zeros((50, 32))
    for one in found:
        for index, mask in one.items():
            per_bit[index] += [mask >> bit & 1 for bit in range(32)]
    for totals in (per_bit.sum(axis=0), per_bit.sum(axis=1)):
        expected = totals.mean()
        assert (abs(totals - expected) < 5 * np.sqrt(expected)).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_flips_depend_on_seed_rate_repeat_and_site_alone(seed: int, repeat: int) -> None:
    whole = flips(SITES, 0.05, seed, repeat)
    assert whole == flips(SITES, 0.05, seed, repeat)
    assert flips(SITES[1:], 0.05, seed, repeat)["b"] == whole["b"]
    others = (
        flips(SITES, 0.05, seed + 1, repeat),
        flips(SITES, 0.05, seed, repeat + 1),
        flips(SITES, 0.051, seed, repeat),
    )
    assert all(other["a"] != whole["a"] for other in others)


def test_the_same_canonical_weights_are_flipped_however_they_are_stored() -> None:
    turned, plain = SITES[0], Site("a", "weight", (40, 60))
    stored = np.arange(2400).reshape(40, 60).T.reshape(-1)  # canonical index of each stored element
    found = {int(stored[index]): mask for index, mask in flips([turned], 0.01, 5)["a"].items()}
    assert found == flips([plain], 0.01, 5)["a"]


# ---- a sweep


@pytest.fixture(scope="module")
def sweep(tiny_run: Path) -> dict[str, Any]:
    return run_ber(prepared(tiny_run), RATES, 3, images=200, progress=no_progress).to_json()


def faulty_outputs(
    run: Path, sites: list[Site], rate: float, repeat: int, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Of an engine built from a file in which NumPy flipped the bits."""
    proto = onnx.load(str(run / "model.onnx"))
    for place in flipped(sites, rate, 42, repeat):
        (stored,) = (tensor for tensor in proto.graph.initializer if tensor.name == place.tensor)
        words = np.array(numpy_helper.to_array(stored)).reshape(-1).view(np.uint32)
        words[place.index] ^= place.xor_mask
        stored.CopyFrom(numpy_helper.from_array(words.view(np.float32).reshape(tuple(stored.dims)), stored.name))
    content = proto.SerializeToString()
    request = EngineRequest(content, sha256_bytes(content), "id", mutable_weights=True, max_batch=16)
    padded = np.concatenate([images, np.repeat(images[:1], -len(images) % 16, axis=0)])
    with open_engine("ort-cpu", request) as runner:
        parts = [runner.run({"image": padded[at : at + 16]})["head"] for at in range(0, len(padded), 16)]
    return np.concatenate(parts)[: len(images)]


def test_a_sweep_is_what_engines_built_from_the_flipped_files_say(tiny_run: Path, sweep: dict[str, Any]) -> None:
    test = load("digits", seed=42).test
    asked = choose(test.ids, test.labels, 200, 42, BIT_ERROR_RATE)
    images, labels = test.batch(asked), test.labels[asked]
    assert list(sweep["classes"].values()) == np.bincount(labels).tolist()
    preparation = prepared(tiny_run)
    sites = preparation.table("model").select("weight", ["*"])
    golden = faulty_outputs(tiny_run, sites, 0.0, 0, images)
    assert sweep["accuracy"] == (golden.argmax(axis=1) == labels).mean()
    for record, rate in zip(sweep["rates"], RATES, strict=True):
        outputs = np.stack([faulty_outputs(tiny_run, sites, rate, repeat, images) for repeat in range(3)])
        broken = np.isnan(outputs).any(axis=2)
        best = np.where(broken, -1, outputs.argmax(axis=2))
        assert record["accuracy"]["per_repeat"] == (best == labels).mean(axis=1).tolist()
        assert record["sdc1"]["per_repeat"] == (best != golden.argmax(axis=1)).mean(axis=1).tolist()
        assert record["nonfinite"]["per_repeat"] == (~np.isfinite(outputs)).any(axis=2).mean(axis=1).tolist()
        masks = [[*one.values()] for r in range(3) for one in [flips(sites, rate, 42, r)]]
        counts = [sum(mask.bit_count() for one in tensors for mask in one.values()) for tensors in masks]
        assert record["flips"] == {"mean": np.mean(counts), "least": min(counts), "most": max(counts)}


def test_accuracy_falls_and_intervals_hold_the_estimates(sweep: dict[str, Any]) -> None:
    none, few, some, many = sweep["rates"]
    for measure, golden in (("accuracy", sweep["accuracy"]), ("sdc1", 0)):
        assert [none[measure][key] for key in ("rate", "low", "high")] == [
            golden
        ] * 3  # nothing flips, and that is known
    assert few["accuracy"]["rate"] > some["accuracy"]["rate"] > many["accuracy"]["rate"]
    for record in sweep["rates"]:
        for measure in ("accuracy", "sdc1", "nonfinite"):
            assert record[measure]["low"] <= record[measure]["rate"] <= record[measure]["high"]
    for measure in ("accuracy", "sdc1", "nonfinite"):  # at these rates no repeat is without flips
        for record in (some, many):
            assert record[measure]["rate"] == pytest.approx(np.mean(record[measure]["per_repeat"]))
            assert 0 < record[measure]["high"] - record[measure]["low"] < 1
            assert record[measure]["high"] > 0


def test_repeats_without_flips_are_not_counted_but_weighed() -> None:
    """By hand: P = 1/4 of having flips at all, of which one half and all images change."""
    golden = np.array([True, True, False, True])
    seen = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0]], bool)
    faulty = FlippedRepeats(np.array([False, True, False, True]), 0.25)
    found = rate_over_repeats(seen, golden, faulty, 0.95)
    assert found.rate == pytest.approx(0.75 * 0.75 + 0.25 * 3 / 8)
    assert found.per_repeat == [0.75, 0.25, 0.75, 0.5]
    assert 0.75 * 0.75 <= found.low < found.rate < found.high <= 0.75 * 0.75 + 0.25
    nothing = rate_over_repeats(seen[:1], golden, FlippedRepeats(np.array([False]), 0.1), 0.95)
    assert (nothing.low, nothing.rate, nothing.high) == pytest.approx((0.675, 0.75, 0.775))
    (single,) = {rate_over_repeats(seen[1:2], golden, FlippedRepeats(np.array([True]), 1.0), 0.95).high}
    assert single > 0.8  # one repeat tells little


def test_one_sided_bounds_are_beta_quantiles_where_repeats_are_all_or_nothing() -> None:
    """Of values of 0 and 1 the bound is Clopper and Pearson's, from SciPy; golden is 0, half of the repeats have flips."""
    seen = np.array([[1, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], bool)
    faulty = FlippedRepeats(np.ones(6, bool), 0.5)
    some = rate_over_repeats(seen, np.zeros(2, bool), faulty, 0.95)
    none = rate_over_repeats(seen[1:], np.zeros(2, bool), FlippedRepeats(np.ones(5, bool), 0.5), 0.95)
    for level, high in ((0.95, some.high_95), (0.99, some.high_99)):
        assert high == pytest.approx(0.5 * beta.ppf(level, 2, 5), abs=0.01)
    for level, high in ((0.95, none.high_95), (0.99, none.high_99)):
        assert high == pytest.approx(0.5 * (1 - (1 - level) ** (1 / 5)), abs=0.01)
    assert some.rate < some.high_95 < some.high < some.high_99


def test_intervals_cover_the_truth() -> None:
    """A made-up engine: with flips, a repeat changes each image with a probability of its own, 0.9 once in five."""
    rng, images, repeats, probability = np.random.default_rng(0), 50, 8, 0.6
    truth = probability * (0.2 * 0.9 + 0.8 * 0.1)
    held = 0
    for _ in range(200):
        faulty = rng.random(repeats) < probability
        chance = np.where(rng.random(repeats) < 0.2, 0.9, 0.1) * faulty
        seen = rng.random((repeats, images)) < chance[:, None]
        found = rate_over_repeats(seen, np.zeros(images, bool), FlippedRepeats(faulty, probability), 0.9)
        held += found.low <= truth <= found.high
    assert held >= 0.9 * 200 - 3 * np.sqrt(0.9 * 0.1 * 200)


def test_the_bits_are_put_back(tiny_run: Path) -> None:
    with weight_engine(prepared(tiny_run), 16) as engine:
        sites = engine.table.select("weight", ["*"])
        stored = {site.tensor: engine.runner.weight(site.tensor).tobytes() for site in sites}  # type: ignore[attr-defined]
        ber_sweep(engine, sites, [1e-3], 2, 1, 0.95)
        assert {name: engine.runner.weight(name).tobytes() for name in stored} == stored  # type: ignore[attr-defined]


def test_all_test_images_are_asked_about_and_chosen_weights_flipped(tiny_run: Path) -> None:
    found = run_ber(prepared(tiny_run), [1e-4], 2, sites=["*.fc1.weight"], seed=5, progress=no_progress)
    assert found.images == len(load("digits", seed=42).test)
    assert found.sites == ["block.0.mlp.fc1.weight"]
    assert (found.seed, found.bits) == (5, 32 * 16 * 32)


def test_a_spec_is_prepared_first(tiny_spec: CampaignSpec, tmp_path: Path, cache_dir: Path) -> None:
    values = tiny_spec.identity() | {"name": "fresh"}
    preparation = prepared(tmp_path / "fresh", parse_spec(values))
    assert (tmp_path / "fresh" / "model.onnx").is_file()
    assert run_ber(preparation, [0.0], 2, images=8, progress=no_progress).name == "fresh"


def test_a_weight_that_is_left_out_is_told(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = LeftOut(target="model", site="head.bias", reason="it is not heard")
    gate = WeightGate(tensors=20, compared=0, left_out=[left_out])
    monkeypatch.setattr("testbed.ber.run.weight_gate_of", lambda *arguments: gate)
    found = run_ber(prepared(tiny_run), [1e-4], 2, images=8, progress=no_progress)
    assert "head.bias" not in found.sites
    assert found.to_json()["left_out"] == [{"target": "model", "site": "head.bias", "reason": "it is not heard"}]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"rates": [1.5]}, "a bit-error rate is a probability, from 0 to 1; 1.5 is not"),
        ({"rates": [float("nan")]}, "is a probability"),
        ({"repeats": 1}, "intervals are over repeats: two at least"),
        ({"images": 10**6}, "test images; 1000000 cannot be asked about"),
        ({"sites": ["no.such"]}, "no weight site of target 'model' matches 'no.such'"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(tiny_run: Path, asked: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"rates": [1e-3], "repeats": 2, "images": 8} | asked
    with pytest.raises(UsageError) as caught:
        run_ber(prepared(tiny_run), arguments.pop("rates"), arguments.pop("repeats"), **arguments, progress=no_progress)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_model_was_changed_is_refused(tiny_copy: Path) -> None:
    (tiny_copy / "model.onnx").write_bytes(b"something else")
    with pytest.raises(StaleArtefact, match=r"model\.onnx"):
        prepared(tiny_copy)
