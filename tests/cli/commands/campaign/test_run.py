"""``testbed campaign run`` and ``testbed fault replay``: what they print, and one line for everything that is wrong."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from testbed.core.folder.files import sha256_file
from testbed.core.folder.runfolder import RunFolder
from tests.support.campaigns import TINY
from tests.support.commands import invoke, last_error_of
from tests.support.disks import disk_of

OUTCOMES = ["identical", "masked", "sdc_tolerable", "sdc1", "due"]


def campaign(run: Path, *more: object, spec: Path = TINY) -> Result:
    return invoke("campaign", "run", spec, "--run", run, *more)


def variant(folder: Path, old: str, new: str) -> Path:
    """The tiny spec with one thing changed."""
    text = TINY.read_text()
    assert old in text
    path = folder / "changed.toml"
    path.write_text(text.replace(old, new, 1))
    return path


# ---- results


def test_json_is_one_object_with_everything_people_ask_for(tiny_copy: Path) -> None:
    result = campaign(tiny_copy, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["faults"] == pq.read_metadata(tiny_copy / "faults.parquet").num_rows
    assert told["rows"] == pq.read_metadata(tiny_copy / "results.parquet").num_rows
    assert told["zero_fault"]["mismatches"] == 0
    assert told["drift"]["max_abs_diff"] <= 1e-5
    assert told["model"]["test_accuracy"] > 0.5
    assert set(told["engine"]) >= {"backend", "hash", "deployment_id", "precision"}
    keys = ["target", "tier", "kind", "site", "op", "bit_class", "n", *OUTCOMES, "nonfinite"]
    keys += ["sdc1_rate", "sdc1_low", "sdc1_high"]
    assert all(set(cell) >= set(keys) for cell in told["strata"])


def test_the_text_names_the_rates_with_n_and_the_report(tiny_copy: Path) -> None:
    result = campaign(tiny_copy)
    assert result.exit_code == 0
    for part in (
        "faults",
        "input   digits: shorter side to 8 (bilinear)",
        "SDC-1",
        "95 % intervals",
        "by confidence tier",
        "thin",
        "0 not bit-identical",
    ):
        assert part in result.stdout
    assert str(tiny_copy / "report.html") in result.stdout.replace("\n", "")
    assert "<html" in (tiny_copy / "report.html").read_text()


def test_the_folder_is_named_after_the_campaign(
    tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    tiny_copy.rename(tmp_path / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert invoke("campaign", "run", TINY).exit_code == 0
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()


def test_a_dry_run_runs_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    result = campaign(tmp_path / "run", "--dry-run", "--json")
    assert result.exit_code == 0
    assert os.listdir(tmp_path) == []
    plan = json.loads(result.stdout)
    planned = pq.read_table(tiny_run / "faults.parquet").to_pandas()
    assert plan["faults"] == len(planned) == sum(section["faults"] for section in plan["sections"])
    assert plan["rows"] == pq.read_metadata(tiny_run / "results.parquet").num_rows
    assert sum(section["strata"] for section in plan["sections"]) == planned.stratum.nunique()
    assert (
        sum(section["population"] for section in plan["sections"])
        == planned.groupby("stratum").population.first().sum()
    )
    for section in plan["sections"]:
        assert section["estimated_seconds"] >= 0
        for widths in section["half_width"].values():
            assert 0 < widths["all"] <= widths["site"] <= 0.5
    text = invoke("campaign", "run", TINY, "--dry-run").stdout
    assert "nothing was run" in text
    assert f"{plan['faults']:,} faults" in text


def test_redo_runs_a_stage_again_and_gives_the_same(tiny_copy: Path, tiny_run: Path) -> None:
    (tiny_copy / "faults.parquet").unlink()
    assert "faults.parquet is missing" in last_error_of(campaign(tiny_copy), 1)
    result = campaign(tiny_copy, "--redo", "plan", "--json")
    assert result.exit_code == 0
    for name in ("faults.parquet", "results.parquet"):
        assert sha256_file(tiny_copy / name) == sha256_file(tiny_run / name)


def test_help_has_an_example() -> None:
    for command in (["campaign"], ["campaign", "run"], ["fault"], ["fault", "replay"]):
        result = invoke(*command, "-h")
        assert result.exit_code == 0
        assert f"testbed {command[0]}" in result.stdout.split("Example:")[1]


# ---- bad input


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "digits"', 'name = "digitz"', "unknown data set 'digitz'"),
        ('preset = "digits"', 'preset = "digitz"', "unknown model preset 'digitz'"),
        ('recipe = "digits"', 'recipe = "digitz"', "digitz"),
        ('sites = ["*.softmax"', 'sites = ["*.softmix"', "no activation site of target 'model' matches '*.softmix'"),
        ('target = "attention"', 'target = "attentive"', "faults[2].target"),
        ("batch = 16", 'backend = "abacus"', "unknown engine 'abacus'"),
        ("batch = 16", "batches = 16", "engine.batches: unknown key; did you mean 'batch'"),
        ("images = [3, 3]", "images = [3, 3, 3]", "tiers.images: names 3 tiers, edges 2"),
        ("[data]", "[data", "is not TOML"),
    ],
)
def test_a_wrong_spec_ends_with_one_line_and_leaves_nothing(tmp_path: Path, old: str, new: str, told: str) -> None:
    spec = variant(tmp_path, old, new)
    assert told in last_error_of(campaign(tmp_path / "run", spec=spec), 2)
    assert os.listdir(tmp_path) == ["changed.toml"]
    assert told in last_error_of(invoke("campaign", "run", spec, "--dry-run"), 2)


def test_a_missing_spec_is_told(tmp_path: Path) -> None:
    assert "no such file" in last_error_of(campaign(tmp_path / "run", spec=tmp_path / "none.toml"), 2)


def test_a_tier_asked_for_more_images_than_it_has_is_named(tmp_path: Path, tiny_run: Path) -> None:
    spec = variant(tmp_path, "images = [3, 3]", "images = [3, 3000]\nexact = true")
    told = last_error_of(campaign(tmp_path / "run", spec=spec), 2)
    assert "tier 1 (0.5, 1]" in told
    assert "3000" in told


def test_an_unknown_stage_to_redo_leaves_no_folder(tmp_path: Path) -> None:
    assert "unknown stage 'foo'; known: train, golden" in last_error_of(campaign(tmp_path / "run", "--redo", "foo"), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_campaign_is_shown_as_it_was_printed(tiny_copy: Path) -> None:
    printed = campaign(tiny_copy)
    assert printed.exit_code == 0
    assert invoke("campaign", "show", tiny_copy).stdout == printed.stdout


def test_what_cannot_be_shown_says_why(gated: Path, tmp_path: Path) -> None:
    assert "run the campaign to the end first" in last_error_of(invoke("campaign", "show", gated), 1)
    assert "holds no run" in last_error_of(invoke("campaign", "show", tmp_path / "none"), 2)
    RunFolder.claimed(tmp_path / "model", "model", "vit", {}, ["testbed"]).save()
    assert "holds no campaign but a model" in last_error_of(invoke("campaign", "show", tmp_path / "model"), 2)


def test_a_gate_that_fails_exits_3(tmp_path: Path, tiny_run: Path) -> None:
    spec = variant(tmp_path, "[gates]", "[gates]\ntest_accuracy = 0.999")
    assert "below gates.test_accuracy 0.999" in last_error_of(campaign(tmp_path / "run", spec=spec), 3)


def test_another_campaigns_folder_is_refused(tiny_copy: Path, tmp_path: Path) -> None:
    before = sha256_file(tiny_copy / "manifest.json")
    spec = variant(tmp_path, "seed = 42", "seed = 43")
    told = last_error_of(campaign(tiny_copy, spec=spec), 2)
    assert "holds another run (campaign 'tiny'), and faults were run in it. What differs here: seed: 42 -> 43." in told
    assert "another folder with --run, or give up its rows with --fresh" in told
    assert sha256_file(tiny_copy / "manifest.json") == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    assert "is not empty and holds no run" in last_error_of(campaign(tmp_path), 2)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_an_unknown_stage_is_refused(tiny_copy: Path) -> None:
    told = last_error_of(campaign(tiny_copy, "--redo", "everything"), 2)
    assert "unknown stage 'everything'; known: train, golden, tiers, export.model" in told


def test_a_folder_at_work_is_refused(tiny_copy: Path) -> None:
    with RunFolder.existing(tiny_copy).locked():
        assert "another process is working in" in last_error_of(campaign(tiny_copy), 1)


def outputs() -> list[tuple[str, str]]:
    """(stage, file) of everything a campaign writes."""
    per_target = [
        entry
        for target in ("model", "attention")
        for entry in (
            (f"export.{target}", f"{target}.onnx"),
            (f"instrument.{target}", f"{target}.twin.onnx"),
            (f"instrument.{target}", f"{target}.sites.json"),
            (f"inputs.{target}", f"inputs/{target}.npy"),
        )
    ]
    golden = [("golden", "golden/logits.npy"), ("inputs.attention", "golden/attention.npy")]
    plan = [("plan", f"faults.{end}") for end in ("parquet", "points.parquet", "words.npy")]
    whole = [("train", "model.safetensors"), ("tiers", "tiers.json"), ("pictures", "pictures.parquet"), *plan]
    return [*whole, *golden, *per_target, ("execute", "results.parquet"), ("summary", "summary.json")]


@pytest.mark.parametrize(("stage", "file"), outputs())
@pytest.mark.parametrize("damage", ["truncated", "edited"])
def test_a_damaged_file_is_named_with_the_stage_to_redo(tiny_copy: Path, stage: str, file: str, damage: str) -> None:
    content = bytearray((tiny_copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tiny_copy / file).write_bytes(content[:-1] if damage == "truncated" else content)
    told = last_error_of(campaign(tiny_copy), 1)
    assert f"{file} was edited or truncated" in told
    assert f"--redo {stage}" in told


def test_the_outputs_above_are_all_there_are(tiny_run: Path) -> None:
    stages = json.loads((tiny_run / "manifest.json").read_text())["stages"]
    written = {(stage, file) for stage, record in stages.items() for file in record["outputs"]}
    assert written - {("report", "report.html")} == set(outputs())


def test_a_truncated_manifest_is_told(tiny_copy: Path) -> None:
    content = (tiny_copy / "manifest.json").read_bytes()
    (tiny_copy / "manifest.json").write_bytes(content[: len(content) // 2])
    assert "manifest.json is damaged" in last_error_of(campaign(tiny_copy), 1)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refused)
    assert "choose another folder" in last_error_of(campaign(tmp_path / "run"), 1)
    monkeypatch.undo()
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(tempfile, "mkstemp", refused)
    assert "choose another folder" in last_error_of(campaign(tmp_path / "run"), 1)


@pytest.mark.parametrize("size", [200, 20_000, 50_000, 150_000])
def test_a_full_disk_leaves_only_whole_files_and_the_campaign_can_go_on(gated: Path, tiny_run: Path, size: int) -> None:
    with disk_of(size):
        told = last_error_of(campaign(gated), 1)
    assert f"cannot write {gated}" in told
    manifest = json.loads((gated / "manifest.json").read_text())
    recorded = {file: digest for stage in manifest["stages"].values() for file, digest in stage["outputs"].items()}
    assert all(sha256_file(gated / file) == digest for file, digest in recorded.items())
    assert not list(gated.rglob("*.unfinished*"))
    assert campaign(gated).exit_code == 0
    assert sha256_file(gated / "results.parquet") == sha256_file(tiny_run / "results.parquet")


# ---- testbed fault replay


@pytest.fixture(scope="module")
def rows(tiny_run: Path) -> pd.DataFrame:
    return pq.read_table(tiny_run / "results.parquet").to_pandas()


def some(rows: pd.DataFrame, choose: Callable[[pd.DataFrame], Any]) -> Any:
    return next(rows[choose(rows)].itertuples())


def test_replay_prints_the_site_the_values_and_both_logits(tiny_run: Path, rows: pd.DataFrame) -> None:
    row = some(rows, lambda r: (r.outcome == "sdc1") & (r["where"] == "activation"))
    result = invoke("fault", "replay", tiny_run, row.fault_id)
    assert result.exit_code == 0
    for part in (f"{row.site}[{row.index}]", row.image_id, row.engine_hash, "sdc1: the same as the stored row"):
        assert part in result.stdout
    assert (
        len([line for line in result.stdout.splitlines() if len(line.split()) == 3 and line.split()[0].isdigit()]) == 10
    )


def test_replay_as_json(tiny_run: Path, rows: pd.DataFrame) -> None:
    row = some(rows, lambda r: (r.outcome == "masked") & (r.target == "model") & (r["where"] == "activation"))
    told = json.loads(invoke("fault", "replay", tiny_run, row.fault_id, "--json").stdout)
    assert (told["site"], told["index"], told["bit"], told["image_id"]) == (row.site, row.index, row.bit, row.image_id)
    assert np.float32(told["value_before"]) == np.float32(row.golden_value)
    assert np.float32(told["value_after"]) == np.float32(row.faulty_value)
    np.testing.assert_array_equal(np.float32(told["faulty_logits"]), row.logits)
    assert len(told["golden_logits"]) == 10
    assert (told["outcome"], told["stored_outcome"], told["same_as_stored"]) == ("masked", "masked", True)
    assert told["max_abs_diff"] == row.max_abs_diff


@pytest.mark.parametrize("target", ["model", "attention"])
def test_a_weight_fault_is_replayed_for_any_image(tiny_run: Path, rows: pd.DataFrame, target: str) -> None:
    of_target = rows[(rows["where"] == "weight") & (rows.target == target)]
    row = of_target[of_target.image_id == of_target.image_id.iloc[4]].iloc[-1]
    told = json.loads(invoke("fault", "replay", tiny_run, row.fault_id, "--image", row.image_id, "--json").stdout)
    assert (told["image_id"], told["outcome"], told["same_as_stored"]) == (row.image_id, row.outcome, True)


def test_a_nan_payload_in_the_logits_is_the_same_as_stored(tiny_run: Path, rows: pd.DataFrame) -> None:
    """A signalling NaN is easily made quiet on the way; the stored bits are what counts."""
    quiet = 1 << 22

    def signalling(r: pd.DataFrame) -> Any:
        is_nan = (r.faulty_word & 0x7F800000 == 0x7F800000) & (r.faulty_word & 0x7FFFFF != 0)
        return (r.site == "head") & (r.target == "model") & is_nan & (r.faulty_word & quiet == 0)

    row = some(rows, signalling)
    told = json.loads(invoke("fault", "replay", tiny_run, row.fault_id, "--json").stdout)
    assert told["same_as_stored"] is True
    assert told["faulty_logits"][row.index] is None
    text = invoke("fault", "replay", tiny_run, row.fault_id)
    assert "nan" in text.stdout
    assert text.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((10**6,), "there is no fault 1000000"),
        (("first",), "'first' is not a valid integer"),
        ((0, "--image", "digits/none"), "has no other image"),
        ((), "Missing argument 'FAULT_ID'"),
    ],
)
def test_a_fault_that_is_not_there_is_told(tiny_run: Path, arguments: tuple[Any, ...], told: str) -> None:
    assert told in last_error_of(invoke("fault", "replay", tiny_run, *arguments), 2)


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    assert "holds no run" in last_error_of(invoke("fault", "replay", tmp_path, 0), 2)


def test_a_damaged_run_is_told(tiny_copy: Path) -> None:
    (tiny_copy / "model.twin.onnx").write_bytes(b"")
    assert "--redo instrument.model" in last_error_of(invoke("fault", "replay", tiny_copy, 0), 1)
