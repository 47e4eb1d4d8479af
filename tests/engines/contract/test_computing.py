"""What every engine computes and says of itself: the model, the same bits again, also as a twin."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from testbed.core.folder.files import sha256_bytes
from testbed.core.site import SiteTable
from testbed.engines.runner import open_engine
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.models.vit import ViT
from tests.support.engine_contract import FEEDS, IMAGES, ON_GPU, ROWS, Open, output, same_bits
from tests.support.engine_requests import asked


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
