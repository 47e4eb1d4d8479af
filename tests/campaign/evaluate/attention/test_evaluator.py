"""Faults inside the attention subnetwork: every exact shortcut against the whole instrumented engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from testbed.campaign.evaluate.attention.graphs import KINDS, attention_sites
from testbed.campaign.evaluate.contract import Injections, NotDeterministic
from testbed.core.errors import UsageError
from testbed.core.outcome import How
from testbed.export.onnx import plain_onnx
from testbed.instrument.ports.feed import NO_SITE, PortFeed
from testbed.instrument.table import site_table
from testbed.models.presets import preset
from testbed.models.vit import ViT
from tests.support.attention_cases import Case, case_of, joined, same_bits, together


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
        subject = case_of(attention)
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

    def test_an_injection_at_several_elements_goes_through_the_whole_twin(self, plain_case: Case) -> None:
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

    def test_injections_nowhere_and_at_sites_without_a_path_go_the_whole_way(self, plain_case: Case) -> None:
        injections = joined(Injections(np.zeros(3, np.int64), PortFeed.idle(3)), plain_case.flips("q", 3))
        _, how, _ = together(plain_case.evaluator({"v": "rows"}), injections)
        assert set(how.tolist()) == {How.WHOLE}


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


def _with_golden_words(subject: Case, injections: Injections) -> Injections:
    kinds = {subject.target.table.ports[site.name]: kind for kind, site in subject.target.sites.site.items()}
    ports = injections.ports
    words = np.zeros_like(ports.golden)
    for place in np.argwhere(ports.site != NO_SITE):
        row, point = place
        golden = subject.goldens[int(injections.image[row])][kinds[int(ports.site[row, point])]]
        words[row, point] = golden.reshape(-1).view(np.uint32)[ports.index[row, point]]
    return replace(injections, ports=replace(ports, golden=words))
