"""The twin: the plain model's computation, and one element per row replaced, bit for bit, where the feed says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from testbed.core.errors import TestbedError, UsageError
from testbed.core.site import Site, SiteTable
from testbed.export.layout import TRANSPOSED
from testbed.instrument.ports.feed import LIVE, NO_SITE, PortFeed, feed_sites
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import deployment_id, site_table

LOUD = [0x80000000, 1, 0x007FFFFF, 0x7F800000, 0xFF800000, 0x7FA00001, 0xFFC12345, 0x3F800000, 0]  # -0.0 ... NaNs ... 0
words = st.sampled_from(LOUD) | st.integers(0, 2**32 - 1)


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


def feed(faulty: list[tuple[int, int, int]]) -> PortFeed:
    """(port, index, word) per row."""
    ports, index, word = (np.array(column, np.int64) for column in zip(*faulty, strict=True))
    return PortFeed.writing(ports, index, word.astype(np.uint32))


def test_a_twin_with_idle_ports_is_the_plain_model_bit_for_bit(exported: Any, session: Any) -> None:
    plain, twin = session(exported.plain, optimised=False), session(exported.twin, optimised=False)
    (wanted,) = plain(exported.feeds()).values()
    found = twin(exported.feeds(PortFeed.idle(3)))
    np.testing.assert_array_equal(bits(found[plain.outputs[0]]), bits(wanted))


def test_a_twin_keeps_the_plain_models_inputs_and_outputs(exported: Any) -> None:
    plain, twin = onnx.load_from_string(exported.plain).graph, onnx.load_from_string(exported.twin).graph
    assert [v.name for v in twin.input] == [*(v.name for v in plain.input), "fault_site", "fault_index", "fault_value"]
    assert [v.name for v in twin.output] == [*(v.name for v in plain.output), LIVE]
    assert {i.name for i in plain.initializer} <= {i.name for i in twin.initializer}


@given(st.data())
def test_a_fault_is_exactly_the_element_asked_for(first: Any, data: st.DataObject) -> None:
    """A batch of different faults: each row's site holds the word there, and the live value everywhere else."""
    names = list(first.table.ports)
    rows = data.draw(st.integers(1, 3))
    faulty = []
    for _ in range(rows):
        port = data.draw(st.integers(0, len(names) - 1))
        faulty.append((port, data.draw(st.integers(0, first.table[names[port]].elements - 1)), data.draw(words)))
    found = first.probe(first.feeds(feed(faulty), rows))
    for row, (port, index, word) in enumerate(faulty):
        for number, name in enumerate(names):
            live, after = (bits(found[n][row]).reshape(-1) for n in (f"{name}/live", name))
            if number == port:
                assert after[index] == word
                assert bits(found[LIVE][row])[0] == live[index]
                after[index] = live[index]
            np.testing.assert_array_equal(after, live)


@given(st.data())
def test_a_fault_disturbs_no_other_row(first: Any, data: st.DataObject) -> None:
    names = list(first.table.ports)
    port = data.draw(st.integers(0, len(names) - 1))
    index, row = data.draw(st.integers(0, first.table[names[port]].elements - 1)), data.draw(st.integers(0, 2))
    idle = (NO_SITE, 0, 0)
    found = first.probe(first.feeds(feed([(port, index, data.draw(words)) if r == row else idle for r in range(3)])))
    golden = first.probe(first.feeds(PortFeed.idle(3)))
    for name in [*names, *(f"{name}/live" for name in names)]:
        others = [r for r in range(3) if r != row]
        np.testing.assert_array_equal(bits(found[name][others]), bits(golden[name][others]))


def test_a_fault_reaches_the_output(first: Any) -> None:
    golden = first.probe(first.feeds(PortFeed.idle(3)))["head"]
    for port, name in enumerate(first.table.ports):
        last = first.table[name].elements - 1
        found = first.probe(first.feeds(feed([(port, 0, 0x41200000), (port, last, 0x41200000), (NO_SITE, 0, 0)])))
        assert (bits(found["head"][:2]) != bits(golden[:2])).any(), name


def test_a_row_may_run_alone_or_in_any_batch(first: Any) -> None:
    port = first.table.ports["block.0.attn.softmax"]
    alone = first.probe({**first.feeds(feed([(port, 5, 0x7F800000)]), 1)})["head"]
    twice = np.concatenate([first.example, first.example])
    crowd = feed([(port, 5, 0x7F800000), *[(port, r, LOUD[r]) for r in range(5)]])
    together = first.probe({first.input_name: twice, **crowd.as_inputs(first.table)})["head"]
    np.testing.assert_array_equal(bits(together[:1]), bits(alone))


def test_an_index_past_the_end_is_refused_before_any_engine_sees_it(first: Any) -> None:
    port, elements = first.table.ports["head"], first.table["head"].elements
    for index in (elements, -1):
        with pytest.raises(
            UsageError, match=f"site head has elements 0 to {elements - 1}; there is no element {index}"
        ):
            feed([(port, index, 0)]).as_inputs(first.table)


# ---- a file that is not our export: every bit pattern, also those no trained model computes


def copies(width: int) -> bytes:
    """x -> patch_embed -> head, each a copy; and a weight, which is not used for them."""
    weight = numpy_helper.from_array(np.zeros(width, np.float32), "head.bias")
    nodes = [
        helper.make_node("Identity", ["x"], ["patch_embed"]),
        helper.make_node("Identity", ["patch_embed"], ["head"]),
        helper.make_node("Add", ["head", "head.bias"], ["sum"]),
    ]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name in ("x", "patch_embed", "head", "sum")
    }
    graph = helper.make_graph(
        nodes, "copies", [values["x"]], [values["head"], values["sum"]], [weight], value_info=[values["patch_embed"]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def copying() -> tuple[SiteTable, ort.InferenceSession]:
    plain = copies(4)
    table = site_table(plain, "model")
    twin = instrument(plain, table).SerializeToString()
    return table, ort.InferenceSession(twin, providers=["CPUExecutionProvider"])


@given(
    held=st.lists(words, min_size=4, max_size=4),
    word=words,
    index=st.integers(0, 3),
    site=st.sampled_from(["patch_embed", "head", None]),
)
def test_ports_let_every_bit_pattern_through(
    copying: tuple[SiteTable, ort.InferenceSession], held: list[int], word: int, index: int, site: str | None
) -> None:
    table, twin = copying
    port = NO_SITE if site is None else table.ports[site]
    values = np.array([held], np.uint32).view(np.float32)
    output, live = twin.run(["head", LIVE], {"x": values, **feed([(port, index, word)]).as_inputs(table)})
    wanted = list(held)
    if site is not None:
        wanted[index] = word
        assert bits(live)[0, 0] == held[index]
    assert bits(output)[0].tolist() == wanted


def test_a_file_of_somebody_else_has_the_sites_it_names() -> None:
    plain = copies(4)
    table = site_table(plain, "own")
    assert [(s.name, s.where, s.shape) for s in table] == [
        ("patch_embed", "activation", (4,)),
        ("head", "activation", (4,)),
        ("head.bias", "weight", (4,)),
    ]
    assert table.deployment_id == deployment_id(plain) != deployment_id(copies(5))


def test_a_file_without_sites_is_refused() -> None:
    proto = onnx.load_from_string(copies(4))
    for node in proto.graph.node:
        node.input[:] = [name.replace("patch_embed", "p").replace("head", "h") for name in node.input]
        node.output[:] = [name.replace("patch_embed", "p").replace("head", "h") for name in node.output]
    for named in (*proto.graph.initializer, *proto.graph.output):
        named.name = named.name.replace("head", "h")
    with pytest.raises(TestbedError, match="names no sites, and no ViT's attention is recognised"):
        site_table(proto.SerializeToString(), "own")


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, "[1]", '{"a": 1}', "[NaN]", '[["head.bias"]]', "9" * 5000])
def test_a_damaged_list_of_transposed_weights_is_refused(text: str) -> None:
    proto = onnx.load_from_string(copies(4))
    helper.set_model_props(proto, {TRANSPOSED: text})
    with pytest.raises(TestbedError, match="list of transposed weights is damaged"):
        site_table(proto.SerializeToString(), "own")


def test_a_table_of_another_file_is_refused() -> None:
    table = SiteTable("model", "x", "gated_replace", (Site("norm", "activation", (4,)),))
    with pytest.raises(TestbedError, match="no tensor named 'norm'"):
        instrument(copies(4), table)


def test_idle_feeds_and_port_numbers(first: Any) -> None:
    idle = PortFeed.idle(2).as_inputs(first.table)
    assert {name: array.shape for name, array in idle.items()} == dict.fromkeys(idle, (2, 1))
    names = ["head", "patch_embed", "head"]
    assert feed_sites(first.table, names).tolist() == [first.table.ports[name] for name in names]
