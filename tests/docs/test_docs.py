"""Every command, option, spec key, column, file and public name is documented. None of the lists comes from the generator."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from pydantic import BaseModel

from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.keys import SUMMARY_KEYS
from testbed.cli.main import COMMANDS, cli
from testbed.core.folder.run_files import ANY_FOLDER, CAMPAIGN_FOLDER, MODEL_FOLDER, STUDY_FOLDER, RunFile, described
from testbed.core.schema import PLAN_COLUMNS, RESULT_COLUMNS
from testbed.train.loggers import LOGGERS
from tests.support.commands import invoke
from tests.support.html import read_page

ROOT = Path(__file__).parents[2]
SHORT = 8  # characters: less is no description


# ---- commands and options


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    names = COMMANDS if group is cli else group.commands
    for name in names:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name}-")


def test_every_command_and_option_has_its_place_on_the_reference_page(site: Path) -> None:
    missing = []
    for anchor, command in commands(cli):
        page = read_page(_page(site, anchor))
        if anchor not in page.anchors or len(command.help or "") < SHORT:
            missing.append(anchor)
        for option in command.params:
            if isinstance(option, click.Option):
                name = max(option.opts, key=len)
                row = page.rows.get(f"{anchor}{name}", ["", ""])
                text = option.help or ""
                if name not in row[0] or len(text) < SHORT or text.split()[0] not in row[1]:
                    missing.append(f"{anchor} {name}")
    assert missing == []


def _page(site: Path, anchor: str) -> Path:
    """Of the command of the first level that the anchor begins with; names may have dashes."""
    top = max((name for name in COMMANDS if anchor == name or anchor.startswith(f"{name}-")), key=len)
    return site / "reference" / "cli" / f"{top}.html"


def test_every_command_shows_an_example() -> None:
    assert [path for path, command in commands(cli) if "Example:" not in (command.epilog or "")] == []


# ---- spec keys


def spec_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, field in model.model_fields.items():
        name = field.alias or key
        yield f"{prefix}{name}", field
        for part in (field.annotation, *get_args(field.annotation)):
            if inspect.isclass(part) and issubclass(part, BaseModel):
                yield from spec_keys(part, f"{name}.")


def test_every_spec_key_has_its_description_on_the_reference_page(site: Path) -> None:
    page = read_page(site / "reference" / "spec.html")
    keys = dict(spec_keys(CampaignSpec))
    assert {"name", "engine.batch", "faults.bits", "stop.margin", "exposure.sites"} <= set(keys)
    missing = [
        key for key, field in keys.items() if len(field.description or "") < SHORT or not _told(page.rows, key, field)
    ]
    assert missing == []


def _told(rows: dict[str, list[str]], key: str, field: Any) -> bool:
    row = rows.get(key)
    first = re.sub(r"`", "", field.description).split("\n")[0][:40]
    return row is not None and row[0] == key.rpartition(".")[2] and row[1] != "" and first in row[3]


# ---- columns


@pytest.mark.parametrize(("table", "columns"), [("results", RESULT_COLUMNS), ("faults", PLAN_COLUMNS)])
def test_every_column_has_its_meaning_on_the_reference_page(site: Path, table: str, columns: Any) -> None:
    page = read_page(site / "reference" / "columns.html")
    for column in columns:
        row = page.rows[f"{table}.{column.name}"]
        assert row[0] == column.name
        assert row[2] == column.meaning
        assert len(row[2]) >= SHORT


# ---- the summary


def test_every_key_of_a_summary_has_its_meaning_on_the_reference_page(
    site: Path, tiny_run: Path, adaptive_run: Path
) -> None:
    page = read_page(site / "reference" / "summary.html")
    documented = {key.name: key.meaning for key in SUMMARY_KEYS}
    found = {
        key for run in (tiny_run, adaptive_run) for key in summary_keys(json.loads((run / "summary.json").read_text()))
    }
    assert found - set(documented) == set()
    optional = {"tiers[].asked", "strata[].detected"}
    optional |= {key for key in documented if key.startswith(("exposure.", "protection", "images_each"))}
    assert set(documented) - found <= optional  # what is there only where a tier has too few images, or the spec asks
    for name, meaning in documented.items():
        assert page.rows[name.replace("[]", "")] == [name, meaning]


def summary_keys(summary: dict[str, Any]) -> Iterator[str]:
    """To the second level; the model's description and what an adaptive stop and the shortcuts did are one key each."""
    for name, value in summary.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{name}[]"
            yield from {f"{name}[].{key}" for entry in value for key in entry}
        else:
            yield name
            if isinstance(value, dict) and name not in ("model", "stop", "evaluated_by"):
                yield from (f"{name}.{key}" for key in value)
    yield from (
        f"model.{key}" for key in ("test_accuracy", "test_images", "no_better_than_guessing") if key in summary["model"]
    )


# ---- files


def test_every_file_of_a_finished_campaign_is_listed(site: Path, tiny_run: Path) -> None:
    _check_files(site, tiny_run, CAMPAIGN_FOLDER)


def test_every_file_of_an_adaptive_campaign_is_listed(site: Path, adaptive_run: Path) -> None:
    _check_files(site, adaptive_run, CAMPAIGN_FOLDER)


def test_every_file_of_a_model_s_folder_is_listed(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "vit"
    loggers = [name for name in LOGGERS if importlib.util.find_spec(name)]
    logged = [word for name in loggers for word in ("--log", name)]
    for command in (
        ("train", "digits", "--dataset", "digits", "--epochs", "4", "--run", run, "--fuzziness-every", "1", *logged),
        ("golden", run),
        ("tiers", run),
        ("subset", run, "--range", "0:4"),
        ("export", run, "--target", "attention"),
        ("export", run, "--precision", "fp16"),
        ("fuzziness", run, "--images", "32"),
    ):
        result = invoke(*command)
        assert result.exit_code == 0, result.output
    found = _check_files(site, run, MODEL_FOLDER)
    absent = {file.name for file in MODEL_FOLDER} - found
    absent -= {name for name in absent if name.partition("/")[0] in {*LOGGERS} - {*loggers}}  # not installed here
    of_protected = "protected/model.PRECISION.onnx"
    assert absent == {"training.checkpoint", of_protected}  # the first is gone when the training is finished


def test_every_file_of_a_study_s_folder_is_listed(site: Path, tmp_path: Path) -> None:
    sizes = ["image=8", "patch=4", "width=8", "heads=1", "head_width=8", "depth=1", "mlp=8"]
    small = [word for size in sizes for word in ("--set", size)]
    limits = ["--epochs", "1", "--seeds", "1", "--train-images", "20", "--test-images", "20"]
    done = invoke("study", "attention", "--dataset", "digits", *small, *limits, "--to", tmp_path / "study")
    assert done.exit_code == 0, done.output
    found = _check_files(site, tmp_path / "study", STUDY_FOLDER)
    assert {file.name for file in STUDY_FOLDER} == found


def _check_files(site: Path, run: Path, folder: tuple[RunFile, ...]) -> set[str]:
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    entries = {file: described(file, folder) for file in files}
    assert [file for file, entry in entries.items() if entry is None] == []
    text = (site / "reference" / "folder.html").read_text()
    names = {entry.name for entry in entries.values() if entry is not None}
    assert [name for name in names if f"<code>{name}</code>" not in text] == []
    return names - {file.name for file in ANY_FOLDER}


# ---- public names


@pytest.mark.parametrize("module", ["testbed", "testbed.data", "testbed.testing"])
def test_every_public_name_and_member_has_a_docstring_and_its_place(site: Path, module: str) -> None:
    page = read_page(site / "reference" / "api.html")
    for name in importlib.import_module(module).__all__:
        exported = getattr(importlib.import_module(module), name)
        if name.startswith("__"):
            continue
        assert f"{module}.{name}" in page.anchors
        assert len(inspect.getdoc(exported) or "") >= SHORT, name
        if inspect.isclass(exported):
            own = {key: value for key, value in vars(exported).items() if not key.startswith("_") and _is_member(value)}
            assert [key for key, value in own.items() if not _docstring(value)] == [], name


def _is_member(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, property | cached_property | classmethod | staticmethod)


def _docstring(value: Any) -> str | None:
    return value.func.__doc__ if isinstance(value, cached_property) else value.__doc__


# ---- environment


def test_every_environment_variable_is_documented() -> None:
    read = re.compile(r'environ[^\n]*?"(TESTBED_[A-Z_]+)"')
    variables = {name for path in (ROOT / "testbed").rglob("*.py") for name in read.findall(path.read_text())}
    documented = (ROOT / "docs" / "how-to" / "install.md").read_text()
    assert {"TESTBED_CACHE", "TESTBED_DATA"} <= variables
    assert [name for name in sorted(variables) if f"`{name}`" not in documented] == []
