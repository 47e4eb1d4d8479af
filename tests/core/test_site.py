"""Sites: canonical indices into stored tensors, names, and the table that lists them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.site import Site, SiteTable

TABLE = SiteTable(
    "model",
    "abc",
    "gated_replace",
    (
        Site("patch_embed", "activation", (16, 8)),
        Site("block.0.attn.q", "activation", (2, 17, 4)),
        Site("block.1.attn.q", "activation", (2, 17, 4)),
        Site("head", "activation", (10,)),
        Site("block.0.mlp.fc1.weight", "weight", (6, 4), transposed=True),
        Site("block.0.norm1.weight", "weight", (4,)),
    ),
)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_transposed_weights_index_is_where_numpys_transpose_puts_it(
    rows: int, columns: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, rows * columns - 1))
    canonical = np.arange(rows * columns).reshape(rows, columns)
    stored = np.ascontiguousarray(canonical.T)
    site = Site("w", "weight", (rows, columns), transposed=True)
    assert stored.reshape(-1)[site.stored_index(index)] == index


@given(st.integers(0, 23))
def test_a_weight_stored_as_it_is_keeps_its_index(index: int) -> None:
    assert Site("w", "weight", (2, 3, 4)).stored_index(index) == index


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("index", [-1, 12])
def test_an_index_past_the_end_is_refused(transposed: bool, index: int) -> None:
    with pytest.raises(UsageError, match=f"elements 0 to 11; there is no element {index}"):
        Site("w", "weight", (3, 4), transposed=transposed).stored_index(index)


def test_a_scalar_has_one_element() -> None:
    site = Site("block.0.attn.mix", "weight", ())
    assert (site.elements, site.stored_index(0)) == (1, 0)


@pytest.mark.parametrize(
    ("name", "where", "kind", "block"),
    [
        ("block.11.attn.softmax", "activation", "softmax", 11),
        ("block.0.mlp.residual", "activation", "residual", 0),
        ("block.3.norm1", "activation", "layernorm", 3),
        ("norm", "activation", "layernorm", None),
        ("patch_embed", "activation", "patch_embedding", None),
        ("head", "activation", "head", None),
        ("block.2.mlp.fc1.weight", "weight", "fc1.weight", 2),
        ("block.2.attn.proj.bias", "weight", "projection.bias", 2),
        ("patch_embed.proj.weight", "weight", "patch_embedding.weight", None),
        ("cls_token", "weight", "cls_token", None),
    ],
)
def test_kind_and_block_are_read_from_the_name(name: str, where: str, kind: str, block: int | None) -> None:
    site = Site(name, where, (4,))  # type: ignore[arg-type]
    assert (site.kind, site.block) == (kind, block)


def test_ports_number_the_activations_in_order() -> None:
    assert TABLE.ports == {"patch_embed": 0, "block.0.attn.q": 1, "block.1.attn.q": 2, "head": 3}


def test_patterns_select_in_the_tables_order_and_never_twice() -> None:
    chosen = TABLE.select("activation", ["head", "block.*.attn.q", "*.q"])
    assert [site.name for site in chosen] == ["block.0.attn.q", "block.1.attn.q", "head"]


def test_a_pattern_selects_only_its_own_kind_of_place() -> None:
    assert [site.name for site in TABLE.select("weight", ["block.0.*"])] == [
        "block.0.mlp.fc1.weight",
        "block.0.norm1.weight",
    ]


def test_every_pattern_must_match_and_the_sites_are_named() -> None:
    with pytest.raises(UsageError, match=r"no weight site of target 'model' matches 'head\*'.*block.0.norm1.weight"):
        TABLE.select("weight", ["*", "head*"])


def test_an_unknown_site_is_refused_naming_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'model' has no site 'block.7.attn.q'; near it: block.0.attn.q, block.1"):
        TABLE["block.7.attn.q"]


def test_a_table_survives_the_disk(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "sites.json")
    assert SiteTable.load(tmp_path / "sites.json") == TABLE


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"sites": 3}', '{"target": "model", "sites": [{"name": "head"}]}']
)
def test_a_damaged_table_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(StaleArtefact, match=r"sites.json is not a site table"):
        SiteTable.load(tmp_path / "sites.json")


@given(st.integers(0, 1000))
def test_a_truncated_table_is_refused(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sites.json"
        TABLE.save(file)
        text = file.read_text().rstrip()
        file.write_text(text[: cut % len(text)])
        with pytest.raises(StaleArtefact):
            SiteTable.load(file)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "sites.json")
    values = json.loads((tmp_path / "sites.json").read_text())
    values["sites"][0]["colour"] = "red"
    (tmp_path / "sites.json").write_text(json.dumps(values))
    with pytest.raises(StaleArtefact, match="colour"):
        SiteTable.load(tmp_path / "sites.json")
