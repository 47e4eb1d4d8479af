"""The gate of shortcuts inside attention: only what has the whole twin's bits on this engine is used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.evaluator import AttentionEvaluator, AttentionPaths
from testbed.campaign.evaluate.attention.gate import prove_attention
from testbed.campaign.evaluate.attention.graphs import KINDS, projection_weight
from testbed.campaign.proofs import AttentionRecord
from testbed.core.errors import EngineError
from testbed.engines.runner import Arrays, BaseRunner, Runner
from tests.support.attention_cases import IMAGES, Case, assert_same_outcomes, case, case_of, joined, together


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
        assert_same_outcomes(subject, injections, together(evaluator, injections)[0], 1e-6, 1e-5)

    def test_differential_attention_is_exact_from_the_site_on(self) -> None:
        subject = case_of("differential")
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
