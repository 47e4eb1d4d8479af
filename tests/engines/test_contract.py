"""What every engine must do, asked of each one that this machine has."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from testbed.core.errors import EngineError, UsageError
from testbed.core.fault import Masks, masks_for
from testbed.core.folder.files import sha256_bytes
from testbed.core.formats import FP32
from testbed.core.site import Site, SiteTable
from testbed.engines.backends import BACKENDS, available, check_engine, precisions_of, require_engine
from testbed.engines.runner import (
    EngineRequest,
    Runner,
    WeightFault,
    WeightInjector,
    faulty_weight,
    faulty_weights,
    open_engine,
)
from testbed.export.onnx import export_onnx
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.semantics import as_words, corrupt
from tests.support.engine_requests import asked

ROWS = 16
IMAGES = np.random.default_rng(0).standard_normal((ROWS, 1, 4, 4)).astype(np.float32)
FEEDS = {"image": IMAGES}
LOUD = masks_for("flip", FP32, 30)
ON_GPU = {"ort-cuda", "torch-cuda", "tensorrt", "tensorrt-rtx"}
ENGINES = [pytest.param(name, marks=pytest.mark.gpu) if name in ON_GPU else name for name in BACKENDS]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViT, bytes]:
    """A model with a convolution, whose weights compilers would most like to lay out anew, and its plain ONNX."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ViTConfig(
        image=4, patch=2, channels=1, width=32, heads=(2,), mlp=(24,), classes=10, head_width=8, patchify="conv"
    )
    model = ViT(config).eval()
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, torch.from_numpy(IMAGES[:2]), file, input_name="image")
    return model, file.read_bytes()


@pytest.fixture(scope="module")
def plain(vit: tuple[ViT, bytes]) -> bytes:
    return vit[1]


@pytest.fixture(scope="module")
def table(plain: bytes) -> SiteTable:
    return site_table(plain, "model")


@pytest.fixture(scope="module", params=ENGINES)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    usable, reason = available(name)
    if not usable:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.fixture(scope="module")
def engine(backend: str) -> Open:
    """Opens the backend's engine for a model and settings; the same one for the same question."""

    @cache
    def opened(model: bytes, **settings: Any) -> Runner:
        return open_engine(backend, asked(model, **settings))

    return opened


def output(runner: Runner, images: NDArray[np.float32] = IMAGES) -> NDArray[np.float32]:
    return runner.run({"image": images})["head"]


def same_bits(a: NDArray, b: NDArray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ---- what it computes


def test_it_computes_the_model(vit: tuple[ViT, bytes], engine: Open) -> None:
    with torch.no_grad():
        expected = vit[0](torch.from_numpy(IMAGES)).numpy()
    found = engine(vit[1]).run(FEEDS)
    assert list(found) == ["head"]
    assert found["head"].dtype == np.float32
    np.testing.assert_allclose(found["head"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mutable", [False, True])
def test_it_repeats_itself_bit_for_bit_and_so_does_another_one(plain: bytes, backend: str, mutable: bool) -> None:
    with (
        open_engine(backend, asked(plain, mutable_weights=mutable)) as one,
        open_engine(backend, asked(plain, mutable_weights=mutable)) as two,
    ):
        golden = output(one)
        output(one, IMAGES[::-1].copy())
        assert same_bits(output(one), golden)
        assert same_bits(output(two), golden)


@pytest.mark.parametrize("mutable", [False, True])
def test_a_row_does_not_depend_on_its_place_or_its_neighbours(plain: bytes, engine: Open, mutable: bool) -> None:
    """A campaign's batches mix faults of many images, so goldens are looked up by image."""
    runner = engine(plain, mutable_weights=mutable)
    golden = output(runner)
    for seed in range(3):
        order = np.random.default_rng(seed).integers(0, ROWS, ROWS)
        assert same_bits(output(runner, IMAGES[order]), golden[order])
    wild = IMAGES.copy()
    wild[1::2] = np.inf
    assert same_bits(output(runner, wild)[::2], golden[::2])


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rows_of_a_batch_are_the_same_bits_in_batches_of_other_sizes(
    plain: bytes, backend: str, engine: Open, rows: int
) -> None:
    """Of the engine as deployed, on the CPU; a GPU, and an engine whose weights can be struck, keep to one size."""
    if backend in ON_GPU:
        pytest.skip("kernels are chosen by batch size on a GPU: campaigns keep to one")
    if backend == "torch" and rows == 1:
        pytest.skip("PyTorch takes other kernels for a row alone")
    runner = engine(plain)
    parts = [output(runner, IMAGES[start : start + rows]) for start in range(0, ROWS, rows)]
    assert same_bits(np.concatenate(parts), output(runner))


def test_an_output_is_not_overwritten_by_the_next_run(plain: bytes, engine: Open) -> None:
    runner = engine(plain)
    first = output(runner)
    kept = first.copy()
    output(runner, -IMAGES)
    assert same_bits(first, kept)


def test_an_input_is_not_written_to(plain: bytes, engine: Open) -> None:
    images = IMAGES.copy()
    images.flags.writeable = False
    assert same_bits(output(engine(plain), images), output(engine(plain)))


# ---- what it says of itself


def test_it_tells_what_runs(plain: bytes, backend: str, engine: Open) -> None:
    info = engine(plain, threads=1).info
    assert (info.backend, info.precision, info.deployment_id) == (backend, "fp32", "deployment")
    assert info.file_sha256 == sha256_bytes(plain)
    assert info.versions
    assert info.options["mutable_weights"] is False
    assert json.loads(json.dumps(dict(info.options))) == info.options


def test_its_hash_changes_with_what_could_change_a_bit_and_with_nothing_else(plain: bytes, backend: str) -> None:
    def hash_of(**settings: Any) -> str:
        with open_engine(backend, asked(plain, **settings)) as runner:
            return runner.info.hash

    assert hash_of() == hash_of()
    assert len({hash_of(), hash_of(mutable_weights=True), hash_of(precision="int8")}) == 3


# ---- what it refuses


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"pixels": IMAGES},
        {"image": IMAGES, "more": IMAGES},
        {"image": IMAGES[:, :, :3]},
        {"image": IMAGES[0]},
        {"image": IMAGES.astype(np.float64)},
    ],
    ids=["nothing", "another name", "one more", "another shape", "no batch", "another type"],
)
@pytest.mark.parametrize("mutable", [False, True])
def test_arrays_that_do_not_fit_are_refused_in_one_line(
    plain: bytes, engine: Open, feeds: dict[str, NDArray], mutable: bool
) -> None:
    runner = engine(plain, mutable_weights=mutable)
    with pytest.raises(EngineError) as caught:
        runner.run(feeds)
    assert "\n" not in str(caught.value)
    assert same_bits(output(runner), output(runner))  # it goes on


def test_inputs_of_different_batches_are_refused(plain: bytes, table: SiteTable, engine: Open) -> None:
    twin = instrument(plain, table).SerializeToString()
    with pytest.raises(EngineError):
        engine(twin).run({"image": IMAGES, **PortFeed.idle(ROWS - 1).as_inputs(table)})


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("damage", [lambda m: b"", lambda m: b"not a model", lambda m: m[:2000]])
def test_a_damaged_model_is_refused_in_one_line(
    plain: bytes, backend: str, damage: Callable[[bytes], bytes], mutable: bool
) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(backend, asked(damage(plain), mutable_weights=mutable))
    assert "\n" not in str(caught.value)


def test_an_operator_it_does_not_have_is_refused_in_one_line(plain: bytes, backend: str) -> None:
    proto = onnx.load_from_string(plain)
    proto.graph.node[5].op_type = "Unheard"
    with pytest.raises(EngineError, match="Unheard") as caught:
        open_engine(backend, asked(proto.SerializeToString()))
    assert "\n" not in str(caught.value)


def test_it_can_be_closed_twice_and_then_runs_no_more(plain: bytes, backend: str) -> None:
    with open_engine(backend, asked(plain, mutable_weights=True)) as runner:
        output(runner)
    runner.close()
    with pytest.raises(EngineError, match="closed"):
        output(runner)


# ---- weights


@pytest.fixture(scope="module")
def weights(table: SiteTable) -> list[Site]:
    return table.select("weight", ["*"])


@pytest.fixture(scope="module")
def injector(plain: bytes, engine: Open) -> Any:
    return engine(plain, mutable_weights=True)


def test_a_loud_fault_in_any_weight_changes_the_output_and_leaves_no_trace(injector: Any, weights: list[Site]) -> None:
    assert isinstance(injector, WeightInjector)
    runner: Any = injector
    golden = output(runner)
    for site in weights:
        with faulty_weight(injector, site.tensor, site.elements // 3, LOUD):
            assert not same_bits(output(runner), golden), site.name
        assert same_bits(output(runner), golden), site.name


def test_a_struck_weight_acts_as_in_an_engine_built_from_the_faulty_file(
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


def test_many_struck_words_of_many_weights_act_and_are_undone(
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


def test_all_struck_words_are_undone_when_one_of_them_cannot_be_struck(injector: Any, weights: list[Site]) -> None:
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


# ---- twins


def test_a_twin_with_idle_ports_drifts_no_further_than_a_campaign_allows(
    plain: bytes, table: SiteTable, engine: Open
) -> None:
    twin = instrument(plain, table).SerializeToString()
    found = engine(twin).run({**FEEDS, **PortFeed.idle(ROWS).as_inputs(table)})["head"]
    np.testing.assert_allclose(found, output(engine(plain)), rtol=0, atol=1e-6)


def test_sites_as_further_outputs_change_no_bit_of_a_twin(plain: bytes, table: SiteTable, engine: Open) -> None:
    """Golden values are read from such a probe; faults are run in the twin itself."""
    twin = instrument(plain, table)
    probe = onnx.ModelProto()
    probe.CopyFrom(twin)
    sites = [site for site in table if site.where == "activation"]
    for site in sites:
        value = onnx.helper.make_tensor_value_info(f"{site.tensor}/live", onnx.TensorProto.FLOAT, ["b", *site.shape])
        probe.graph.output.append(value)
    striking, probing = engine(twin.SerializeToString()), engine(probe.SerializeToString())
    golden = probing.run({**FEEDS, **PortFeed.idle(ROWS).as_inputs(table)})
    rng = np.random.default_rng(2)
    for site in sites:
        index, none = rng.integers(0, site.elements, ROWS), np.zeros(ROWS, np.uint32)
        ports = np.full(ROWS, table.ports[site.name], np.int64)
        feed = PortFeed(ports, index, ~none, none, none, none)
        live = striking.run({**FEEDS, **feed.as_inputs(table)})["fault_live"][:, 0]
        expected = golden[f"{site.tensor}/live"].reshape(ROWS, -1)[np.arange(ROWS), index]
        assert same_bits(live, expected), site.name


# ---- what this machine has


def test_every_backend_says_whether_it_can_run_here_and_what_to_install() -> None:
    for name in BACKENDS:
        usable, reason = available(name)
        assert reason
        assert "\n" not in reason
        if usable:
            require_engine(name)
        else:
            assert "install" in reason or "needs" in reason
            with pytest.raises(EngineError, match=f"engine '{name}' cannot run here: "):
                open_engine(name, EngineRequest(b"", "sha", "id"))


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with pytest.raises(
        EngineError, match=r"'openvino' cannot run here: openvino is not installed: pip install openvino"
    ):
        open_engine("openvino", EngineRequest(b"", "sha", "id"))
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: not found\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=r"does not import \(libnvinfer\.so\.11: not found\): pip install tensorrt"):
        require_engine("tensorrt")


@pytest.mark.parametrize("name", BACKENDS)
def test_any_machine_knows_the_engines_and_their_precisions(name: str) -> None:
    """A finished campaign can be looked at where its engine cannot run."""
    for precision in precisions_of(name):
        check_engine(name, precision)
    with pytest.raises(UsageError, match="does not offer 'fp8'"):
        check_engine(name, "fp8")
