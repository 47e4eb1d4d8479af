"""What every engine refuses in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from testbed.core.errors import EngineError
from testbed.core.site import SiteTable
from testbed.engines.runner import open_engine
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from tests.support.engine_contract import IMAGES, ROWS, Open, output, same_bits
from tests.support.engine_requests import asked


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
