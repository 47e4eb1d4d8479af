"""Every port mechanism does to the live value what the NumPy reference says, bit for bit, in every number format."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from testbed.core.fault import masks_for
from testbed.core.files import sha256_bytes
from testbed.core.formats import FORMATS
from testbed.core.site import Site, SiteTable
from testbed.engines import native
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.instrument.feed import DTYPES, MECHANISMS, NO_SITE, OP, PortFeed, from_words, live_words, to_words
from testbed.instrument.ports import ELEMENTS, instrument
from testbed.semantics import corrupt

WIDTH = 3
STRUCK = ("fp32", "fp16", "int8", "uint8")


def copies(format_name: str) -> bytes:
    """x -> patch_embed -> head, each a copy in one number format."""
    element = ELEMENTS[format_name]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("x", "patch_embed"), ("patch_embed", "head"))]
    batch = ["batch", WIDTH]
    values = {n: helper.make_tensor_value_info(n, element, batch) for n in ("x", "patch_embed", "head")}
    graph = helper.make_graph(nodes, "copies", [values["x"]], [values["head"]], value_info=[values["patch_embed"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@cache
def twin(format_name: str, mechanism: str) -> tuple[SiteTable, Runner]:
    plain = copies(format_name)
    sites = tuple(Site(name, "activation", (WIDTH,), format_name) for name in ("patch_embed", "head"))
    table = SiteTable("copies", "0", mechanism, sites)
    content = instrument(plain, table).SerializeToString()
    return table, open_engine("ort-cpu", EngineRequest(content, sha256_bytes(content), table.deployment_id))


def mechanisms() -> list[str]:
    return [m for m in MECHANISMS if m != OP or native.op_available()[0]]


def test_the_custom_op_is_among_the_mechanisms() -> None:
    if OP not in mechanisms():
        pytest.skip(native.op_available()[1])


@given(data=st.data())
@pytest.mark.parametrize("format_name", STRUCK)
def test_every_mechanism_is_the_reference(format_name: str, data: st.DataObject) -> None:
    fmt = FORMATS[format_name]
    rows = data.draw(st.integers(1, 4))
    word = st.integers(0, 2**fmt.bits - 1)
    held = np.array(data.draw(st.lists(word, min_size=rows * WIDTH, max_size=rows * WIDTH)), np.uint32)
    x = from_words(held, format_name).reshape(rows, WIDTH)
    op = data.draw(st.sampled_from(["flip", "stuck0", "stuck1", "random", "identity"]))
    struck = [masks_for(op, fmt, data.draw(st.integers(0, fmt.bits - 1)), data.draw(word)) for _ in range(rows)]
    keep, put, turn = (np.array(column, np.uint32) for column in zip(*struck, strict=True))
    site = np.array(data.draw(st.lists(st.sampled_from([NO_SITE, 0, 1]), min_size=rows, max_size=rows)), np.int64)
    index = np.array(data.draw(st.lists(st.integers(0, WIDTH - 1), min_size=rows, max_size=rows)), np.int64)
    golden = held.reshape(rows, WIDTH)[np.arange(rows), index]
    wanted = x.copy()
    for row in np.flatnonzero(site != NO_SITE):
        wanted[row, index[row]] = corrupt(x[row, index[row : row + 1]], keep[row], put[row], turn[row])[0]
    feed = PortFeed(site, index, keep, put, turn, golden)
    for mechanism in mechanisms():
        table, runner = twin(format_name, mechanism)
        outputs = runner.run({"x": x, **feed.as_inputs(table)})
        assert outputs["head"].dtype == DTYPES[format_name]
        np.testing.assert_array_equal(to_words(outputs["head"]), to_words(wanted), err_msg=mechanism)
        live = live_words(outputs, table, site)
        np.testing.assert_array_equal(live[site != NO_SITE], golden[site != NO_SITE], err_msg=mechanism)
