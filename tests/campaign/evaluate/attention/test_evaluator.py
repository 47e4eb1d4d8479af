"""Faults inside the attention subnetwork: every shortcut against the whole instrumented engine."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import GoldenSide, classify
from testbed.campaign.evaluate.attention.changes import CHANGES
from testbed.campaign.evaluate.attention.evaluator import AttentionEvaluator, AttentionPaths
from testbed.campaign.evaluate.attention.gate import prove_attention, random_flips
from testbed.campaign.evaluate.attention.golden import AttentionGoldens, AttentionTarget, ImageGolden
from testbed.campaign.evaluate.attention.graphs import KINDS, attention_sites, projection_weight, stages
from testbed.campaign.evaluate.attention.rows import FaultyElements, RowPath
from testbed.campaign.evaluate.attention.stage_engines import Sizes, StageEngines, proven
from testbed.campaign.evaluate.contract import Injections, NotDeterministic
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.proofs import AttentionRecord
from testbed.core.errors import EngineError, UsageError
from testbed.core.folder.files import sha256_bytes
from testbed.core.outcome import How
from testbed.engines.runner import Arrays, BaseRunner, EngineRequest, Runner, open_engine
from testbed.export.onnx import plain_onnx
from testbed.export.target import input_name
from testbed.instrument.ports.feed import NO_SITE, PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.models.presets import preset
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT
from tests.support.blocks import blocks_of

IMAGES, BATCH = 6, 4
EXACT = {How.WHOLE, How.SUFFIX, How.ROWS, How.UNCHANGED}


@dataclass
class Case:
    """One attention module of 17 tokens, its engine, and its golden tensors."""

    target: AttentionTarget
    whole: WholeTwin
    goldens: dict[int, ImageGolden]
    sizes: Sizes

    def evaluator(
        self, path: dict[str, str], atol: float = 1e-6, rtol: float = 1e-5, **options: Any
    ) -> AttentionEvaluator:
        paths = AttentionPaths(path, self.sizes)
        return AttentionEvaluator(self.target, self.whole, paths, np.full(IMAGES, atol), rtol, **options)

    def flips(self, kind: str, faults: int, seed: int = 0) -> Injections:
        return random_flips(self.target, kind, self.goldens, faults, np.random.default_rng(seed))

    def writes(self, kind: str, value: float, faults: int) -> Injections:
        """Sets random elements to a value."""
        injections = self.flips(kind, faults)
        words = np.full(faults, np.float32(value).view(np.uint32))
        feed = PortFeed.writing(injections.ports.site[:, 0], injections.ports.index[:, 0], words)
        return Injections(injections.image, replace(feed, golden=injections.ports.golden))


def case(attention: str = "softmax", loudness: float = 1.0, backend: str = "ort-cpu", bias: bool = True) -> Case:
    """loudness: factor on the weights that make q, k and v; the larger, the more a row attends to few keys."""
    torch.manual_seed(3)
    model = ViT(preset("digits", attention=attention, qkv_bias=bias)).eval()
    with torch.no_grad():
        for parameter in blocks_of(model)[0].attn.qkv.parameters():
            parameter.mul_(loudness)
    example = torch.zeros(2, model.config.tokens, model.config.width)
    plain = plain_onnx(subnetwork(model, "attention"), example, input_name=input_name("attention")).SerializeToString()
    table = site_table(plain, "attention")
    twin = instrument(plain, table).SerializeToString()

    def opened(model: bytes) -> Runner:
        return open_engine(backend, EngineRequest(model, sha256_bytes(model), table.deployment_id, max_batch=BATCH))

    shape = (IMAGES, *example.shape[1:])
    inputs = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    number = np.arange(IMAGES)
    images = NamedImages(tuple(map(str, number)), number, np.zeros(IMAGES, np.int16), number)
    engine = CampaignEngine(
        "attention", "activation", table, opened(twin), lambda rows: inputs[rows], "hidden",
        table["block.0.attn.proj"].tensor, images, BATCH,
    )  # fmt: skip
    sites = attention_sites(table, plain)
    assert sites is not None
    target = AttentionTarget(plain, twin, table, sites, opened, lambda rows: inputs[rows], BATCH)
    whole = WholeTwin(engine)
    source = AttentionGoldens(target, whole.golden, 2**40)
    goldens = source.load([0, 1, 2, 3]) | source.load([4, 5])
    return Case(target, whole, goldens, proven(stages(plain, sites), opened, list(goldens.values()), 0))


@pytest.fixture(scope="module")
def plain_case() -> Case:
    return case()


@pytest.fixture(scope="module", params=[1.0, 6.0], ids=["calm", "loud"])
def each_case(request: pytest.FixtureRequest) -> Case:
    return case(loudness=request.param)


def together(
    evaluator: Any, injections: Injections
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
    """outputs, how, bound of all strikes, each found once."""
    parts = list(evaluator.evaluate(injections))
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows.tolist()) == list(range(len(injections)))
    order = np.argsort(rows)
    outputs, how, bound = (
        np.concatenate([getattr(p, name) for p in parts])[order] for name in ("outputs", "how", "bound")
    )
    return outputs, how, bound


def same_bits(found: NDArray, wanted: NDArray) -> bool:
    either_nan = np.isnan(found) & np.isnan(wanted)
    return bool(((found.view(np.uint32) == wanted.view(np.uint32)) | either_nan).all())


def joined(*injections: Injections) -> Injections:
    ports = [s.ports for s in injections]
    names = ("site", "index", "and_mask", "or_mask", "xor_mask", "golden")
    feed = PortFeed(*(np.concatenate([getattr(port, name) for port in ports]) for name in names))
    return Injections(np.concatenate([s.image for s in injections]), feed)


class TestExactPaths:
    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_give_the_bits_of_the_whole_twin(self, each_case: Case, kind: str) -> None:
        injections = each_case.flips(kind, 160)
        outputs, how, bound = together(each_case.evaluator({kind: "rows"}), injections)
        assert same_bits(outputs, together(each_case.whole, injections)[0])
        assert set(how.tolist()) <= {How.ROWS, How.UNCHANGED}
        assert not bound.any()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("attention", ["softmax", "differential"])
    def test_suffixes_give_the_bits_of_the_whole_twin(self, attention: str, kind: str) -> None:
        subject = _case_of(attention)
        injections = subject.flips(kind, 60)
        outputs, how, _ = together(subject.evaluator({kind: "suffix"}), injections)
        assert same_bits(outputs, together(subject.whole, injections)[0])
        assert set(how.tolist()) == {How.SUFFIX}

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_leaves_every_bit_golden_is_called_unchanged(self, plain_case: Case, kind: str) -> None:
        injections = plain_case.flips(kind, 8)
        none = np.zeros_like(injections.ports.xor_mask)
        injections = replace(injections, ports=replace(injections.ports, xor_mask=none))
        outputs, how, _ = together(plain_case.evaluator({kind: "rows"}), injections)
        assert same_bits(outputs, plain_case.whole.golden[injections.image])
        assert set(how.tolist()) == {How.ROWS if kind == "proj" else How.UNCHANGED}

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -1e30, 1e20, 1e-40, -0.0])
    def test_huge_and_tiny_values_have_their_exact_outputs(self, plain_case: Case, value: float) -> None:
        evaluator = plain_case.evaluator(dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"})
        injections = joined(*(plain_case.writes(kind, value, 12) for kind in KINDS))
        outputs, how, _ = together(evaluator, injections)
        exact = how != How.INCREMENTAL
        assert same_bits(outputs[exact], together(plain_case.whole, injections)[0][exact])
        if not abs(value) < 1e21:
            assert exact.all()

    def test_a_strike_at_several_elements_goes_through_the_whole_twin(self, plain_case: Case) -> None:
        pairs = [joined(*(plain_case.flips(kind, 5, seed) for seed in (1, 2))) for kind in ("v", "k", "q", "proj")]
        ports = joined(*pairs).ports
        first, second = np.arange(0, 40) % 10 < 5, np.arange(0, 40) % 10 >= 5
        names = ("site", "index", "and_mask", "or_mask", "xor_mask", "golden")
        two = PortFeed(*(np.hstack([getattr(ports, name)[rows] for rows in (first, second)]) for name in names))
        injections = Injections(np.zeros(20, np.int64), two)
        injections = _with_golden_words(plain_case, injections)
        evaluator = plain_case.evaluator(dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"})
        outputs, how, _ = together(evaluator, injections)
        assert set(how.tolist()) == {How.WHOLE}
        assert same_bits(outputs, together(plain_case.whole, injections)[0])

    def test_a_single_point_among_idle_ones_takes_its_path(self, plain_case: Case) -> None:
        one = plain_case.flips("q", 6).ports
        idle = PortFeed.idle(6)
        names = ("site", "index", "and_mask", "or_mask", "xor_mask", "golden")
        feed = PortFeed(*(np.hstack([getattr(idle, name), getattr(one, name)]) for name in names))
        injections = Injections(plain_case.flips("q", 6).image, feed)
        outputs, how, _ = together(plain_case.evaluator({"q": "rows"}), injections)
        assert set(how.tolist()) <= {How.ROWS, How.UNCHANGED}
        assert same_bits(outputs, together(plain_case.whole, plain_case.flips("q", 6))[0])

    def test_strikes_nowhere_and_at_sites_without_a_path_go_the_whole_way(self, plain_case: Case) -> None:
        injections = joined(Injections(np.zeros(3, np.int64), PortFeed.idle(3)), plain_case.flips("q", 3))
        _, how, _ = together(plain_case.evaluator({"v": "rows"}), injections)
        assert set(how.tolist()) == {How.WHOLE}


class TestIncremental:
    @pytest.mark.parametrize("kind", ["k", "v"])
    def test_results_lie_within_their_bound(self, each_case: Case, kind: str) -> None:
        found, wanted, bound = _incremental(each_case, kind, each_case.flips(kind, 800, seed=1))
        assert len(found) > 500
        off = np.abs(found.astype(np.float64) - wanted).max(axis=(1, 2))
        assert (off <= bound).all()
        assert np.quantile(off / bound, 0.99) < 0.5  # a margin, and
        assert (off / bound).max() > 0.005  # not one that says nothing

    @pytest.mark.parametrize(("kind", "value"), [("v", 40.0), ("v", -3e4), ("k", 5.0), ("k", -40.0)])
    def test_results_of_large_changes_lie_within_their_bound(self, each_case: Case, kind: str, value: float) -> None:
        found, wanted, bound = _incremental(each_case, kind, each_case.writes(kind, value, 60))
        assert (np.abs(found.astype(np.float64) - wanted).max(axis=(1, 2), initial=0) <= bound).all()

    @pytest.mark.parametrize(("atol", "rtol"), [(1e-6, 1e-5), (2e-7, 0.0), (1e-4, 1e-3)])
    def test_outcomes_are_those_of_exact_evaluation(self, each_case: Case, atol: float, rtol: float) -> None:
        injections = joined(*(each_case.flips(kind, 125, seed=2) for kind in ("k", "v")))
        how = _check_outcomes(each_case, injections, atol, rtol)
        assert (how == How.INCREMENTAL).any()

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
    def test_outcomes_of_20000_faults_are_those_of_exact_evaluation(self, backend: str) -> None:
        for seed, loudness in enumerate((1.0, 3.0)):
            subject = case(loudness=loudness, backend=backend)
            shares = dict.fromkeys(KINDS, 400) | {"k": 4000, "v": 4000}
            injections = joined(*(subject.flips(kind, n, seed) for kind, n in shares.items()))
            how = _check_outcomes(subject, injections, 1e-6, 1e-5)
            assert (how == How.INCREMENTAL).mean() > 0.4

    def test_marks_and_bounds_tell_incremental_rows_from_exact_ones(self, plain_case: Case) -> None:
        evaluator = plain_case.evaluator({"v": "incremental"})
        injections = plain_case.flips("v", 300)
        _, how, bound = together(evaluator, injections)
        assert ((bound > 0) == (how == How.INCREMENTAL)).all()
        counts = evaluator.counts()
        assert counts["strikes"] == 300
        assert counts["how"]["incremental"] == (how == How.INCREMENTAL).sum()
        fallbacks = counts["near_decision"] + counts["not_covered"]
        assert fallbacks == (how != How.INCREMENTAL).sum()
        assert counts["fallback_share"] == pytest.approx(fallbacks / 300)

    @pytest.mark.parametrize("kind", ["k", "v"])
    def test_a_tolerance_within_the_bound_of_the_change_is_decided_exactly(self, plain_case: Case, kind: str) -> None:
        evaluator = plain_case.evaluator({kind: "incremental"}, rtol=0.0)
        injections = plain_case.flips(kind, 200)
        outputs, how, bound = together(evaluator, injections)
        largest = np.abs(outputs - plain_case.whole.golden[injections.image]).max(axis=(1, 2))
        places = np.flatnonzero((how == How.INCREMENTAL) & (largest > 4 * bound))[:12]
        assert len(places)
        for place in places:
            for side in (-0.5, 0.5):
                atol = float(largest[place] + side * bound[place])
                close = plain_case.evaluator({kind: "incremental"}, atol=atol, rtol=0.0)
                assert together(close, injections.take(places[places == place]))[1][0] in EXACT

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_row_depends_on_the_company_it_is_evaluated_in(self, plain_case: Case, kind: str) -> None:
        evaluator = plain_case.evaluator(dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"})
        injections = plain_case.flips(kind, 60)
        outputs, how, bound = together(evaluator, injections)
        for row in range(0, 60, 7):
            alone = together(evaluator, injections.take(np.array([row])))
            assert same_bits(alone[0][0], outputs[row])
            assert (alone[1][0], alone[2][0]) == (how[row], bound[row])


class TestGate:
    @pytest.mark.parametrize("backend", ["ort-cpu", "openvino", "torch"])
    def test_what_is_proven_on_an_engine_gives_its_whole_twins_outcomes(self, backend: str) -> None:
        subject = case(backend=backend, bias=False)
        record = AttentionRecord.model_validate(
            json.loads(json.dumps(prove_attention(subject.target, subject.whole, IMAGES, seed=7).to_json()))
        )
        paths = AttentionPaths.of(record)
        assert paths.useful
        if backend == "ort-cpu":
            assert paths.path == dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"}
        evaluator = AttentionEvaluator(subject.target, subject.whole, paths, np.full(IMAGES, 1e-6), 1e-5)
        injections = joined(*(subject.flips(kind, 40, seed=8) for kind in KINDS))
        _same_outcomes(subject, injections, together(evaluator, injections)[0], 1e-6, 1e-5)

    def test_differential_attention_is_exact_from_the_site_on(self) -> None:
        subject = _case_of("differential")
        paths = AttentionPaths.of(prove_attention(subject.target, subject.whole, IMAGES, seed=7)).path
        assert paths == dict.fromkeys(KINDS, "suffix") | {"context": "rows", "proj": "rows"}

    def test_kernels_with_other_bits_for_fewer_rows_are_not_used(self, plain_case: Case) -> None:
        honest = plain_case.target.open
        target = replace(plain_case.target, open=lambda model: Rounding(honest(model), only_parts=True))
        record = prove_attention(target, plain_case.whole, IMAGES, seed=7)
        assert not any(record.sizes.values())
        paths = AttentionPaths.of(record).path
        assert paths == dict.fromkeys(KINDS, "suffix") | {"proj": "rows"}

    def test_suffixes_with_other_bits_are_not_used_either(self, plain_case: Case) -> None:
        honest = plain_case.target.open
        target = replace(plain_case.target, open=lambda model: Rounding(honest(model), only_parts=False))
        paths = AttentionPaths.of(prove_attention(target, plain_case.whole, IMAGES, seed=7)).path
        assert paths == dict.fromkeys(KINDS, "whole") | {"proj": "rows"}

    def test_an_engine_that_refuses_the_parts_leaves_everything_to_the_whole_twin(self, plain_case: Case) -> None:
        def refusing(model: bytes) -> Runner:
            raise EngineError("no")

        record = prove_attention(replace(plain_case.target, open=refusing), plain_case.whole, IMAGES, seed=7)
        assert record.why == "no"
        assert not AttentionPaths.of(record).useful

    def test_results_outside_their_bound_switch_incremental_evaluation_off(
        self, plain_case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weight = projection_weight(plain_case.target.plain, plain_case.target.sites)
        assert weight is not None
        wrong = weight * np.float32(1.001)
        monkeypatch.setattr("testbed.campaign.evaluate.attention.gate.projection_weight", lambda *_: wrong)
        paths = AttentionPaths.of(prove_attention(plain_case.target, plain_case.whole, IMAGES, seed=7)).path
        assert paths["k"] == paths["v"] == "rows"


class TestGoldens:
    def test_a_small_budget_changes_nothing_but_the_number_of_runs(self, plain_case: Case) -> None:
        injections = joined(*(plain_case.flips(kind, 30) for kind in ("q", "v")))
        path = {"q": "rows", "v": "incremental"}
        roomy, tight = plain_case.evaluator(path), plain_case.evaluator(path, budget=1)
        for _ in range(2):
            assert same_bits(together(tight, injections)[0], together(roomy, injections)[0])
        assert roomy.goldens.runs < tight.goldens.runs

    def test_a_golden_word_that_the_engine_does_not_hold_is_reported(self, plain_case: Case) -> None:
        injections = plain_case.flips("v", 4)
        wrong = replace(injections, ports=replace(injections.ports, golden=injections.ports.golden ^ np.uint32(1)))
        with pytest.raises(NotDeterministic, match=r"block\.0\.attn\.v\["):
            list(plain_case.evaluator({"v": "rows"}).evaluate(wrong))

    def test_an_index_past_a_tensors_end_is_refused(self, plain_case: Case) -> None:
        injections = plain_case.flips("v", 1)
        past = replace(injections, ports=replace(injections.ports, index=injections.ports.index + 10**6))
        with pytest.raises(UsageError, match="there is no element"):
            list(plain_case.evaluator({"v": "rows"}).evaluate(past))

    def test_only_an_attention_module_of_its_own_is_an_attention_target(self) -> None:
        model = ViT(preset("digits")).eval()
        c = model.config
        plain = plain_onnx(model, torch.zeros(2, c.channels, c.image, c.image), input_name="image").SerializeToString()
        assert attention_sites(site_table(plain, "model"), plain) is None


class Rounding(BaseRunner):
    """An engine whose results are off by a unit in the last place, wherever it runs less than the whole twin; parts are
    its stages, which take one image."""

    def __init__(self, engine: Runner, only_parts: bool) -> None:
        self.engine, self.only_parts, self.info = engine, only_parts, engine.info

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        results = self.engine.run(feeds)
        whole = "fault_site" in feeds
        part = all(len(array) == 1 for array in feeds.values())
        if whole or (self.only_parts and not part):
            return results
        return {name: np.nextafter(array, np.float32(9)) for name, array in results.items()}


@cache
def _case_of(attention: str) -> Case:
    return case(attention)


def _with_golden_words(subject: Case, injections: Injections) -> Injections:
    kinds = {subject.target.table.ports[site.name]: kind for kind, site in subject.target.sites.site.items()}
    ports = injections.ports
    words = np.zeros_like(ports.golden)
    for place in np.argwhere(ports.site != NO_SITE):
        row, point = place
        golden = subject.goldens[int(injections.image[row])][kinds[int(ports.site[row, point])]]
        words[row, point] = golden.reshape(-1).view(np.uint32)[ports.index[row, point]]
    return replace(injections, ports=replace(ports, golden=words))


def _incremental(subject: Case, kind: str, injections: Injections) -> tuple[NDArray, NDArray, NDArray]:
    """(found, wanted, bound) of the strikes that the analysis covers, near a decision or not."""
    target = subject.target
    weight = projection_weight(target.plain, target.sites)
    assert weight is not None
    injected = FaultyElements(kind, injections.image, injections.ports.index[:, 0], injections.ports.faulty[:, 0])
    with StageEngines(stages(target.plain, target.sites), target.open, subject.sizes) as parts:
        rows = RowPath(target.sites, parts)
        columns, before = rows.columns(injected, subject.goldens), rows.golden_columns(injected, subject.goldens)
    changes = CHANGES[kind](injected, columns, before, subject.goldens, weight, target.sites)
    usable = np.flatnonzero(changes.usable)
    found = changes.outputs(usable, injections.image[usable], subject.whole.golden)
    return found, together(subject.whole, injections.take(usable))[0], changes.bound[usable]


def _check_outcomes(subject: Case, injections: Injections, atol: float, rtol: float) -> NDArray[np.int8]:
    """Also that what is not incremental is exact, and what is lies within its bound."""
    path = dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"}
    found, how, bound = together(subject.evaluator(path, atol, rtol), injections)
    wanted = together(subject.whole, injections)[0]
    _same_outcomes(subject, injections, found, atol, rtol)
    exact = how != How.INCREMENTAL
    assert same_bits(found[exact], wanted[exact])
    off = np.abs(found[~exact].astype(np.float64) - wanted[~exact]).max(axis=(1, 2), initial=0)
    assert (off <= bound[~exact]).all()
    return how


def _same_outcomes(subject: Case, injections: Injections, found: NDArray, atol: float, rtol: float) -> None:
    wanted = together(subject.whole, injections)[0]
    side = GoldenSide.of(subject.whole.golden, has_classes=False).take(injections.image)
    judged = [classify(y, side, atol, rtol, (0.0,), has_classes=False) for y in (found, wanted)]
    assert (judged[0].outcome != judged[1].outcome).sum() == 0
    assert (judged[0].nonfinite == judged[1].nonfinite).all()
