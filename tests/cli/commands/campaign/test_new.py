"""`testbed campaign new` and `list`: ready-made specs as a user of the package meets them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from testbed.campaign.spec.campaign import load_spec
from testbed.campaign.spec.ready_made import ready_made
from tests.support.commands import invoke

TREE = Path(__file__).parents[4] / "campaigns"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_specs_of_the_tree_are_ready_made_and_valid() -> None:
    assert {path.stem for path in TREE.glob("*.toml")} == set(ready_made()) >= {"digits", "cifar10"}
    for name, ready in ready_made().items():
        assert load_spec(ready.path).name == name == ready.name


@pytest.mark.parametrize("name", sorted(path.stem for path in TREE.glob("*.toml")))
def test_a_ready_made_name_gives_that_file_and_runs_as_its_message_says(name: str) -> None:
    result = invoke("campaign", "new", name)
    assert result.exit_code == 0
    assert f"testbed campaign run {name}.toml" in result.output
    header, _, text = (TREE / f"{name}.toml").read_text().partition("\n")
    assert header == "#:schema ./testbed.schema.json"
    assert Path(f"{name}.toml").read_text() == text  # without the schema beside it, editors would complain of the line


def test_one_s_own_campaign_differs_in_its_name_only_and_keeps_the_comments() -> None:
    assert invoke("campaign", "new", "mine", "--from", "cifar10", "--to", "specs/first.toml").exit_code == 0
    written, (_, _, source) = Path("specs/first.toml").read_text(), (TREE / "cifar10.toml").read_text().partition("\n")
    assert tomllib.loads(written) == tomllib.loads(source) | {"name": "mine"}
    assert written.replace('"mine"', '"cifar10"') == source


def test_a_new_name_begins_with_the_digits() -> None:
    invoke("campaign", "new", "mine")
    assert tomllib.loads(Path("mine.toml").read_text())["model"]["preset"] == "digits"


def test_the_schema_is_written_beside_the_spec_that_names_it_and_is_made_anew() -> None:
    for name in ("digits", "cifar10"):
        result = invoke("campaign", "new", name, "--to", f"specs/{name}.toml", "--schema")
        assert result.exit_code == 0
        assert "specs/testbed.schema.json" in result.output
        text = Path(f"specs/{name}.toml").read_text()
        assert text == (TREE / f"{name}.toml").read_text()
        schema = Path("specs") / text.splitlines()[0].removeprefix("#:schema ")
        assert schema.read_text() == invoke("campaign", "schema").output
        schema.write_text("of an earlier version")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("mine", "--from", "nothing"), "unknown ready-made spec 'nothing'; known: cifar10, digits"),
        (("cifar-10",), "no ready-made spec is called 'cifar-10': did you mean cifar10? Else say --from cifar10"),
        (("a b",), "NAME 'a b': name: "),
        (("../up",), "NAME '../up': name: "),
        (("mine", "--to", "there.toml"), "there.toml is there already; name another file: --to FILE"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line_and_nothing_is_written(args: tuple[str, ...], told: str) -> None:
    Path("there.toml").write_text("kept")
    result = invoke("campaign", "new", *args)
    assert result.exit_code == 2
    assert told in result.output
    assert len(result.output.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["there.toml"]
    assert Path("there.toml").read_text() == "kept"


def test_the_list_says_what_each_shows_and_needs() -> None:
    specs = {spec["name"]: spec for spec in json.loads(invoke("campaign", "list", "--json").output)["specs"]}
    assert set(specs) == set(ready_made())
    assert specs["cifar10"]["model"] == "runs/vit"
    assert specs["onnx"]["model"] == "model.onnx"
    assert all(spec["about"] and Path(spec["file"]).is_file() for spec in specs.values())
    assert "digits-adaptive" in invoke("campaign", "list").output


@pytest.mark.parametrize(
    ("missing", "fix"),
    [("campaigns/digits.toml", "testbed campaign new digits"), ("mine.toml", "testbed campaign list")],
)
def test_a_spec_that_is_not_there_is_told_with_the_command_that_helps(missing: str, fix: str) -> None:
    result = invoke("campaign", "run", missing)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {missing}: no such file; ")
    assert fix in result.output
