"""Weights of every engine: faults in them act as in an engine built from the faulty file, and are undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from testbed.core.errors import EngineError
from testbed.core.fault import Masks, masks_for
from testbed.core.formats import FP32
from testbed.core.site import Site
from testbed.engines.runner import (
    WeightFault,
    WeightInjector,
    faulty_weight,
    faulty_weights,
    open_engine,
)
from testbed.semantics import as_words, corrupt
from tests.support.engine_contract import LOUD, Open, output, same_bits
from tests.support.engine_requests import asked


def test_a_loud_fault_in_any_weight_changes_the_output_and_leaves_no_trace(injector: Any, weights: list[Site]) -> None:
    assert isinstance(injector, WeightInjector)
    runner: Any = injector
    golden = output(runner)
    for site in weights:
        with faulty_weight(injector, site.tensor, site.elements // 3, LOUD):
            assert not same_bits(output(runner), golden), site.name
        assert same_bits(output(runner), golden), site.name


def test_a_faulty_weight_acts_as_in_an_engine_built_from_the_faulty_file(
    plain: bytes, backend: str, injector: Any, weights: list[Site]
) -> None:
    rng = np.random.default_rng(1)
    for site in weights[::3]:
        index, masks = int(rng.integers(site.elements)), masks_for("random", FP32, value=int(rng.integers(2**32)))
        with faulty_weight(injector, site.tensor, site.stored_index(index), masks):
            faulty = output(injector)
        rebuilt = asked(with_fault(plain, site, index, masks), mutable_weights=True)
        with open_engine(backend, rebuilt) as fresh:
            assert same_bits(output(fresh), faulty), site.name


def test_many_faulty_words_of_many_weights_act_and_are_undone(
    plain: bytes, backend: str, injector: Any, weights: list[Site]
) -> None:
    rng = np.random.default_rng(2)
    places, faulty_file, stored = [], plain, {site.tensor: injector.weight(site.tensor).tobytes() for site in weights}
    for site in weights[::2]:
        canonical = np.arange(site.elements).reshape(site.shape)
        flat = (canonical.T if site.transposed else canonical).reshape(-1)  # canonical index of each stored element
        index = rng.choice(site.elements, size=min(7, site.elements), replace=False)
        bits = rng.integers(0, 24, len(index))
        full, none = np.full(len(index), 2**32 - 1, np.uint32), np.zeros(len(index), np.uint32)
        places.append(WeightFault(site.tensor, index, full, none, (1 << bits).astype(np.uint32)))
        for element, bit in zip(index, bits, strict=True):
            faulty_file = with_fault(faulty_file, site, int(flat[element]), masks_for("flip", FP32, int(bit)))
    golden = output(injector)
    with faulty_weights(injector, places) as words:
        faulty = output(injector)
        for place, (before, after) in zip(places, words, strict=True):
            assert (as_words(before) ^ as_words(after) == place.xor_mask).all()
    assert same_bits(output(injector), golden)
    assert {name: injector.weight(name).tobytes() for name in stored} == stored
    with open_engine(backend, asked(faulty_file, mutable_weights=True)) as fresh:
        assert same_bits(output(fresh), faulty)


def test_all_faulty_words_are_undone_when_one_of_them_cannot_be_written(injector: Any, weights: list[Site]) -> None:
    one = np.array([1], np.uint32)
    places = [WeightFault(site.tensor, np.array([0]), one, one, one) for site in weights[:3]]
    unknown = WeightFault("no.such.weight", np.array([0]), one, one, one)
    stored = {site.tensor: injector.weight(site.tensor).tobytes() for site in weights}
    with pytest.raises(EngineError, match=r"no\.such\.weight"), faulty_weights(injector, [*places, unknown]):
        raise AssertionError("the block must not be entered")
    assert {name: injector.weight(name).tobytes() for name in stored} == stored


def with_fault(plain: bytes, site: Site, index: int, masks: Masks) -> bytes:
    proto = onnx.load_from_string(plain)
    (stored,) = (i for i in proto.graph.initializer if i.name == site.tensor)
    array = np.array(numpy_helper.to_array(stored))
    canonical = array.T if site.transposed else array
    place = np.unravel_index(index, canonical.shape)
    canonical[place] = corrupt(canonical[place].reshape(1), *masks)[0]
    stored.CopyFrom(numpy_helper.from_array(array, site.tensor))
    return proto.SerializeToString()


@pytest.mark.parametrize("word", [0x7FA00001, 0x80000000, 0x00000001, 0xFFFFFFFF])
def test_every_bit_pattern_is_written_and_undone(injector: Any, word: int) -> None:
    before = injector.weight("head.weight").tobytes()
    with faulty_weight(injector, "head.weight", 5, masks_for("random", FP32, value=word)) as (_, after):
        assert as_words(after)[0] == word
        assert as_words(injector.weight("head.weight").reshape(-1))[5] == word
    assert injector.weight("head.weight").tobytes() == before


def test_a_weight_is_restored_when_the_run_fails(injector: Any) -> None:
    golden, before = output(injector), injector.weight("head.bias").tobytes()
    with pytest.raises(EngineError), faulty_weight(injector, "head.bias", 0, LOUD):
        injector.run({})
    assert injector.weight("head.bias").tobytes() == before
    assert same_bits(output(injector), golden)


def test_two_engines_do_not_share_their_weights(plain: bytes, backend: str, injector: Any) -> None:
    with open_engine(backend, asked(plain, mutable_weights=True)) as other:
        golden = output(other)
        with faulty_weight(injector, "head.bias", 0, LOUD):
            assert same_bits(output(other), golden)


def test_an_engine_as_deployed_and_an_unknown_weight_are_refused(plain: bytes, engine: Open, injector: Any) -> None:
    with pytest.raises(EngineError, match=r"'head\.bias' cannot be struck here.*without mutable weights"):
        engine(plain).weight("head.bias")
    with pytest.raises(EngineError, match=r"'no\.such' cannot be struck"):
        injector.weight("no.such")


def test_both_settings_compute_the_same_model(plain: bytes, engine: Open, injector: Any) -> None:
    np.testing.assert_allclose(output(injector), output(engine(plain)), rtol=0, atol=1e-5)
