"""A spec's file: where it is not TOML, and what --set reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.campaign.spec.campaign import load_spec
from testbed.campaign.spec.loading import change, read_toml
from testbed.core.errors import UsageError
from tests.support.campaigns import DIGITS


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'name = "a"\nseed = \n', "line 2, column 8: Invalid value: seed ="),
        (b'name = "a"\n[tolerance]\natol = 1e-4 rtol = 1\n', "line 3, column 13: Expected newline or end of document"),
        (b'name = "a"\nname = "b"\n', "line 2, column 11: Cannot overwrite a value: name = "),
        (b'name = "a', "line 1, column 10: Unterminated string"),
        (b"name = \n[[faults]\n", "line 1, column 8: Invalid value"),
        (b'# caf\xe9\nname = "a"\n', "line 1, column 6: byte 0xe9 is not UTF-8; save the file as UTF-8 text"),
        (b'name = "a"\n\n# \xff\n', "line 3, column 3: byte 0xff is not UTF-8"),
    ],
)
def test_what_is_no_toml_is_told_with_line_and_column(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path} is not TOML: {told}")
    assert "\n" not in str(caught.value)


def test_a_change_reaches_into_lists_and_keys_of_any_name() -> None:
    changes = [
        'faults[0].sites=["*.softmax", "head"]',
        "faults[1].per_stratum=3",
        "faults.2.scope=persistent",
        "tiers.images[1]=5",
        'exposure.sites."*.softmax"=2.5',
    ]
    changed, plain = load_spec(DIGITS, changes), load_spec(DIGITS)
    assert changed.faults[0].sites == ("*.softmax", "head")
    assert (changed.faults[1].per_stratum, changed.faults[2].scope) == (3, "persistent")
    assert changed.tiers.images == (plain.tiers.images[0], 5, *plain.tiers.images[2:])
    assert changed.exposure is not None
    assert changed.exposure.sites == {"*.softmax": 2.5}
    assert changed.faults[3:] == plain.faults[3:]


@pytest.mark.parametrize(
    "asked",
    ["=3", "faults[0]", "faults[0]sites=3", "faults[.x=3", "a..b=3", "engine.=3", ".batch=3", 'a."b=3', "[0]=x"],
)
def test_a_key_that_cannot_be_is_one_line_and_changes_nothing(asked: str) -> None:
    values = {"engine": {"batch": 1}, "faults": [{"sites": ["*"]}]}
    with pytest.raises(UsageError, match=r"^--set .*write KEY=VALUE"):
        change(values, asked)
    assert values == {"engine": {"batch": 1}, "faults": [{"sites": ["*"]}]}


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("vit.onnx", '[model] onnx = "{}" in the one that testbed campaign new NAME --from onnx writes'),
        ("vit.pth", "testbed import {} --run DIR, then [model] run = DIR in the spec that testbed campaign new NAME"),
        ("model.safetensors", "testbed import {} --run DIR, then [model] run = DIR in the spec that testbed campaign"),
    ],
)
def test_a_model_in_place_of_a_spec_says_how_a_spec_names_it(file: str, told: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"\x08\x0a\xf6")
    with pytest.raises(UsageError, match="is a model, and a spec is wanted") as raised:
        read_toml(tmp_path / file)
    assert told.format(tmp_path / file) in str(raised.value)
    assert "\n" not in str(raised.value)
