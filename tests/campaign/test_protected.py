"""Campaigns on protected engines: what the checks see is in the rows, and nothing of what they miss is lost.

Oracle: the deployed file, with two outputs, in ONNX Runtime itself, the weight or tensor changed by hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from testbed.campaign.evaluate.suffix.entries import SuffixEntry
from testbed.campaign.folder import workplace
from testbed.campaign.prepare import stages
from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import parse_spec
from testbed.cli.main import cli
from testbed.core.errors import GateFailed, UsageError
from testbed.core.protected import DETECTED
from testbed.core.site import SiteTable
from testbed.data import load
from testbed.instrument.packed import PACKED, packed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.report.page import build_report
from tests.support.campaigns import run_here
from tests.support.protected import (
    CHECKED,
    CLIPPED,
    bounds_of,
    foreign,
    plain_files,
    protect,
    protected_run,
    spec_values,
    tiny_model,
)

WEIGHTS = {"target": "model", "where": "weight", "sites": ["head.bias"], "bits": [3]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Plain and protected file, in fp32."""
    folder = tmp_path_factory.mktemp("files")
    plain = plain_files(tiny_model(), folder)["fp32"]
    checks = bounds_of(plain, CHECKED, load("digits").test.batch(slice(None)))
    return {"plain": plain, "protected": protect(plain, clips={CLIPPED: 8.0}, checks=checks)}


@pytest.fixture(scope="module")
def model_run(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protected") / "run"
    protected_run(path, tiny_model(), {"fp32": files["protected"]})
    return path


@pytest.fixture(scope="module")
def finished(model_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign on the protected model."""
    folder = tmp_path_factory.mktemp("campaign") / "run"
    run_here(parse_spec(spec_values(model_run)), folder)
    return folder


@pytest.fixture(scope="module")
def rows(finished: Path) -> pd.DataFrame:
    return pd.read_parquet(finished / "results.parquet")


class Deployed:
    """The deployed file in ONNX Runtime, with further tensors as outputs."""

    def __init__(self, model: bytes, inputs: NDArray[np.float32]) -> None:
        self.model, self.inputs = onnx.load_from_string(model), inputs

    def run(self, image: int) -> tuple[NDArray[np.float32], bool]:
        session = onnxruntime.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])
        logits, detected = session.run(None, {session.get_inputs()[0].name: self.inputs[image : image + 1]})
        return logits[0], bool(detected[0])

    def with_weight(self, name: str, stored: int, word: int) -> Deployed:
        changed = Deployed(self.model.SerializeToString(), self.inputs)
        tensor = next(t for t in changed.model.graph.initializer if t.name == name)
        values = np.array(numpy_helper.to_array(tensor))
        values.reshape(-1).view(np.uint32)[stored] = word
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        return changed


def test_rows_say_what_the_checks_saw(rows: pd.DataFrame) -> None:
    seen = rows[rows["detected"]]
    assert 20 < len(seen) < len(rows)
    assert set(seen["outcome"]) == {"detected"}
    assert not (rows[~rows["detected"]]["outcome"] == "detected").any()
    assert seen["due"].isna().all()
    assert set(map(len, rows["logits"])) == {10}  # without the alarm
    assert (seen["top1_faulty"] != seen["top1_golden"]).any()  # nothing of what it would have been is lost
    assert (seen["mismatches"] == 0).any()  # an alarm that was about nothing, as of a fault in a check
    assert rows["recovered"].isna().all()
    of_checks = rows[rows["site"].str.startswith("protect.")]
    assert set(of_checks["kind"]) == {"protect.range", "protect.checksum", "protect.flag"}


def test_weight_rows_are_those_of_the_deployed_file(
    finished: Path, files: dict[str, bytes], rows: pd.DataFrame
) -> None:
    inputs = np.load(finished / "inputs/model.npy")
    table = {site["name"]: site for site in json.loads((finished / "model.sites.json").read_text())["sites"]}
    images = [image["id"] for image in json.loads((finished / "tiers.json").read_text())["named"]]
    deployed = Deployed(files["protected"], inputs)
    seen = set()
    for row in rows[rows["where"] == "weight"].to_dict("records"):
        site = table[row["site"]]
        stored = row["index"]
        if site["transposed"]:
            r, c = divmod(row["index"], site["shape"][1])
            stored = c * site["shape"][0] + r
        faulty = deployed.with_weight(site["tensor"], stored, row["faulty_word"])
        logits, detected = faulty.run(images.index(row["image_id"]))
        np.testing.assert_array_equal(np.array(row["logits"], np.float32), logits)
        assert row["detected"] == detected
        seen.add(detected)
    assert seen == {True, False}


def test_parts_of_the_engine_give_the_same_rows(
    model_run: Path, finished: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    """What goes past the cuts to the alarms alone goes along: the rows are those of the whole engine."""
    evaluated = json.loads((finished / "summary.json").read_text())["evaluated_by"]
    assert {facts["by"] for facts in evaluated.values()} == {"suffix"}, evaluated
    of_checks = rows["site"].str.startswith("protect.")
    assert set(rows[of_checks & (rows["where"] == "activation")]["evaluation"]) == {"whole"}
    assert "whole" not in set(rows[~of_checks]["evaluation"])
    values = spec_values(model_run)
    values["engine"] = {**values["engine"], "evaluation": "whole"}
    run_here(parse_spec(values), tmp_path / "run")
    whole = pd.read_parquet(tmp_path / "run/results.parquet")
    assert set(whole["evaluation"]) == {"whole"}
    pd.testing.assert_frame_equal(rows.drop(columns=["evaluation"]), whole.drop(columns=["evaluation"]))


def test_the_deployed_file_is_the_one_that_was_protected(finished: Path, model_run: Path) -> None:
    deployed = (model_run / "protected/model.fp32.onnx").read_bytes()
    assert (finished / "model.onnx").read_bytes() == deployed
    assert {value.name for value in onnx.load_from_string(deployed).graph.output} == {"head", DETECTED}


def test_the_summary_says_what_the_checks_saw(finished: Path, rows: pd.DataFrame) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    protection = summary["protection"]
    assert set(protection["passes"]) == {"range", "checksum"}
    assert protection["on_detected"] == "none"
    alarms = protection["false_alarms"]
    assert (alarms["images"], alarms["alarms"]) == (6, 0)
    assert alarms["bound_95"] == pytest.approx(1 - 0.05 ** (1 / 6))
    assert alarms["bound_99"] == pytest.approx(1 - 0.01 ** (1 / 6))
    for model in protection["models"]:
        own = rows[(rows["where"] == model["where"]) & (rows["op"] == model["op"])]
        changed = own[own["top1_faulty"] != own["top1_golden"]]
        assert model["detected"] == own["detected"].sum()
        for name, asked in (
            ("sdc1", changed),
            ("outside", own[own["mismatches"] > 0]),
            ("inside", own[own["mismatches"] == 0]),
        ):
            if not len(asked):
                assert name not in model
                continue
            assert model[name]["rows"] == len(asked)
            weighted = np.average(asked["detected"], weights=asked["weight"])
            assert model[name]["rate"] == pytest.approx(weighted, abs=2e-6)
            assert model[name]["low_99"] <= model[name]["low_95"] <= model[name]["rate"]
        assert "recovered" not in model
    assert sum(stratum["detected"] for stratum in summary["strata"]) == rows["detected"].sum()
    overall = [m for m in summary["marginals"] if m["by"] == "all"]
    for marginal in overall:
        own = rows[(rows["where"] == marginal["where"]) & (rows["op"] == marginal["op"])]
        for measure, event in (
            ("detected", own["detected"]),
            ("outside", ~own["outcome"].isin(["identical", "masked", "detected"])),
            ("sdc1", own["outcome"] == "sdc1"),
        ):
            assert marginal["rates"][measure]["rate"] == pytest.approx(
                np.average(event, weights=own["weight"]), abs=2e-6
            )


@pytest.mark.parametrize("policy", ["rerun", "reload"])
def test_second_runs_are_run(policy: str, model_run: Path, finished: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    """A fault of one inference is gone, one in a weight is there until the weights are restored."""
    run_here(parse_spec(spec_values(model_run, protection={"on_detected": policy})), tmp_path / "run")
    again = pd.read_parquet(tmp_path / "run/results.parquet")
    pd.testing.assert_frame_equal(
        again.drop(columns=["recovered", "engine_hash"]), rows.drop(columns=["recovered", "engine_hash"])
    )
    assert (again["recovered"].notna() == again["detected"]).all()
    second = again[again["detected"]].groupby("where", observed=True)["recovered"]
    assert second.all().to_dict() == {"activation": True, "weight": policy == "reload"}
    assert second.any().to_dict() == {"activation": True, "weight": policy == "reload"}
    protection = json.loads((tmp_path / "run/summary.json").read_text())["protection"]
    assert protection["on_detected"] == policy
    rates = {model["where"]: {model["recovered"]["rate"]} for model in protection["models"] if model["detected"]}
    assert rates == {"activation": {1.0}, "weight": {1.0 if policy == "reload" else 0.0}}
    assert all((model["second_run_seconds"] > 0) == (model["detected"] > 0) for model in protection["models"])


def test_second_runs_need_checks_that_raise_alarms(files: dict[str, bytes], tmp_path: Path) -> None:
    protected_run(tmp_path / "clipped", tiny_model(), {"fp32": protect(files["plain"], clips={CLIPPED: 8.0})})
    values = spec_values(tmp_path / "clipped", protection={"on_detected": "rerun"})
    values["faults"][0]["sites"] = ["head", "protect.*"]
    with pytest.raises(UsageError, match="this model has none; leave it out, or take a model that `testbed protect`"):
        run_here(parse_spec(values), tmp_path / "run")
    del values["protection"]
    run_here(parse_spec(values), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["protection"] == {"passes": {"range": {CLIPPED: 8.0}, "checksum": {}}}
    assert all("detected" not in record for record in (*summary["strata"], summary["marginals"][0]["rates"]))


def test_an_alarm_without_a_fault_stops_the_campaign(files: dict[str, bytes], tmp_path: Path) -> None:
    checks = bounds_of(files["plain"], CHECKED, load("digits").test.batch(slice(None)), margin=0.8)
    protected_run(tmp_path / "tight", tiny_model(), {"fp32": protect(files["plain"], checks=checks)})
    with pytest.raises(
        GateFailed, match=r"of 6 images without any fault .* thresholds are too tight for ort-cpu; protect"
    ):
        run_here(parse_spec(spec_values(tmp_path / "tight")), tmp_path / "run")
    assert not (tmp_path / "run/results.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": {"precision": "fp16"}, "faults": [WEIGHTS]}, "was protected in fp32, not in fp16"),
        (
            {"faults": [{"target": "attention", "where": "activation"}]},
            "take target model, or the folder of the plain model",
        ),
        ({"stop": {"margin": 0.1, "proxy": "magnitude"}, "faults": [WEIGHTS]}, "guesses are of the plain model"),
    ],
)
def test_what_a_protected_model_is_not(changes: dict[str, Any], says: str, model_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        run_here(parse_spec(spec_values(model_run, **changes)), tmp_path / "run")


def test_a_twin_that_loses_its_alarms_is_caught(
    model_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_alarms(plain: bytes, table: SiteTable) -> ModelProto:
        twin = instrument(plain, table)
        for node in twin.graph.node:
            if DETECTED in node.output:
                node.output[0] = "lost"
        twin.graph.node.append(helper.make_node("Xor", ["lost", "lost"], [DETECTED]))  # never
        return twin

    monkeypatch.setattr(stages, "instrument", without_alarms)
    with pytest.raises(GateFailed, match=r"raised by hand, protect\.flag\.0, protect\.flag\.1 .* is not the alarm"):
        run_here(parse_spec(spec_values(model_run)), tmp_path / "run")


def test_alarms_of_another_row_are_caught(model_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows then influence each other, and the campaign goes on with one row at a time, where there is no other."""

    def turned(model: bytes) -> bytes:
        proto = onnx.load_from_string(packed(model))
        for node in proto.graph.node:
            if node.output[0] == f"{PACKED}/column":
                node.output[0] = "own"
        ends = [
            numpy_helper.from_array(np.array([end], np.int64), name)
            for name, end in (("one", 1), ("far", 2**31), ("axis", 0))
        ]
        proto.graph.initializer.extend([*ends, numpy_helper.from_array(np.array([0], np.int64), "none")])
        at = next(n for n, node in enumerate(proto.graph.node) if node.output[0] == PACKED)
        for node in (
            helper.make_node("Concat", ["rest", "first"], [f"{PACKED}/column"], axis=0),
            helper.make_node("Slice", ["own", "one", "far", "axis"], ["rest"]),
            helper.make_node("Slice", ["own", "none", "one", "axis"], ["first"]),
        ):
            proto.graph.node.insert(at, node)
        return proto.SerializeToString()

    monkeypatch.setattr(workplace, "packed", turned)
    summary = run_here(parse_spec(spec_values(model_run)), tmp_path / "run")
    assert summary.engine.batch == 1
    assert any("a row gives other bits beside rows in which faults were injected" in note for note in summary.notes)


def test_page_and_tables_tell_it(model_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_here(parse_spec(spec_values(model_run, protection={"on_detected": "rerun"})), folder)
    page = build_report(folder).read_text()
    assert "What the engine's own checks saw" in page
    assert "0 alarms without a fault on 6 images" in page
    assert "After an alarm the image was run again, the weights as they were." in page
    assert 'class="outcome detected"' in page
    assert "<dt>detected</dt>" in page
    shown = CliRunner().invoke(cli, ["campaign", "show", str(folder)]).stdout
    assert "what the engine's own checks saw" in shown
    assert "second runs (rerun): model, activations, bit flips:" in shown


def test_replays_of_single_faults_say_the_same(finished: Path, rows: pd.DataFrame) -> None:
    run = Run(finished)
    for where in ("activation", "weight"):
        for detected in (True, False):
            row = rows[(rows["where"] == where) & (rows["detected"] == detected)].iloc[0]
            again = run.replay(int(row["fault_id"]), str(row["image_id"]))
            assert again.outcome == row["outcome"]
            np.testing.assert_array_equal(again.faulty, np.array(row["logits"], np.float32))


def test_a_protected_file_of_others(files: dict[str, bytes], rows: pd.DataFrame, tmp_path: Path) -> None:
    """The same model under other names: the same faults give the same rows, and the checks are struck, too."""
    plain = foreign(files["plain"])
    tensors = {site.name: site.tensor for site in catalogue(plain).recognised}
    passes = json.loads(onnx.load_from_string(files["protected"]).metadata_props[-1].value)
    clips, checks = ({tensors[site]: bound for site, bound in passes[name].items()} for name in ("range", "checksum"))
    (tmp_path / "out.onnx").write_bytes(protect(plain, clips=clips, checks=checks))
    values = spec_values(tmp_path, model={"onnx": str(tmp_path / "out.onnx"), "training": {"seed": 42}})
    values |= {"data": {"name": "digits"}, "protection": {"on_detected": "rerun"}}
    summary = run_here(parse_spec(values), tmp_path / "run")
    again = pd.read_parquet(tmp_path / "run/results.parquet")
    assert summary.protection is not None
    assert set(again[again["detected"]]["outcome"]) == {"detected"}
    assert any(site.startswith("protect.flag.") for site in again["site"])
    same = ["where", "site", "index", "op", "bit", "and_mask", "or_mask", "xor_mask", "image_id"]
    both = again.merge(rows, on=same, suffixes=("", "_b"))
    assert len(both[both["where"] == "weight"]) > 100
    differ = both[both["detected"] != both["detected_b"]]
    assert not len(differ), differ.iloc[0].to_dict()
    assert (both["outcome"].astype(str) == both["outcome_b"].astype(str)).all()


def test_alarms_that_get_lost_between_parts_are_caught(
    model_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate of the shortcuts finds other bits, and the whole engine is run."""
    put = SuffixEntry.put

    def forgetful(entry: SuffixEntry, name: str, *where: Any) -> None:
        put(replace(entry, whole={}) if name.startswith("protect.") else entry, name, *where)

    monkeypatch.setattr(SuffixEntry, "put", forgetful)
    values = spec_values(model_run)
    del values["faults"][1]
    summary = run_here(parse_spec(values), tmp_path / "run")
    (facts,) = summary.evaluated_by.values()
    assert facts.by == "whole"
    assert facts.why is not None
    assert facts.why.startswith("parts do not give the whole's bits")
