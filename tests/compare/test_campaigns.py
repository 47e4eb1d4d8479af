"""Two campaigns side by side, against pandas and scikit-learn on their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper
from sklearn.metrics import cohen_kappa_score

from testbed.compare.campaigns import compare_campaigns, write_table
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.site import SiteTable
from tests.support.campaigns import tiny_values
from tests.support.commands import error_of, invoke
from tests.support.comparisons import INSIDE, KEYS, compared_json, edited, one, results, rewritten, with_outcome
from tests.support.finished import finished


def test_a_campaign_agrees_with_itself(tiny_run: Path) -> None:
    compared = compared_json(tiny_run, tiny_run)
    assert compared["mode"] == "engines"
    assert compared["disagreements"]["rows"] == 0
    assert compared["pairing"]["rows"] == pq.read_metadata(tiny_run / "results.parquet").num_rows
    assert (compared["pairing"]["only_a"], compared["pairing"]["only_b"]) == (0, 0)
    assert compared["notes"] == []
    for record in compared["agreement"]:
        assert record["agreement"]["rate"] == 1
        assert record["same_golden_word"] == 1
        kappa = record["kappa"]
        assert (kappa["value"] == kappa["high"] == 1 and kappa["low"] < 1) or kappa["undefined"]


def test_each_side_is_headed_by_its_sdc1_rate_and_the_bits_it_holds(tiny_run: Path, torch_run: Path) -> None:
    """As the campaigns' own summaries have them; bits by the tensors' sizes in the ONNX file."""
    compared = compared_json(tiny_run, torch_run)
    for side, folder in (("a", tiny_run), ("b", torch_run)):
        marginals = json.loads((folder / "summary.json").read_text())["marginals"]
        own = {(m["where"], m["op"]): m for m in marginals if m["target"] == "model" and m["by"] == "all"}
        lines = {(line["where"], line["op"]): line for line in compared["headline"][side]}
        assert set(lines) == set(own)
        for key, line in lines.items():
            ends = ("rate", "low", "high", "high_95", "high_99")
            assert [line[name] for name in ends] == pytest.approx(
                [own[key]["rates"]["sdc1"][name] for name in ends], abs=1e-9
            )
            assert (line["n"], line["faults"]) == (own[key]["n"], own[key]["faults"])
            assert line["sdc1_bits"] == pytest.approx(line["rate"] * line["bits"])
    stored = {t.name: t.dims for t in onnx.load(tiny_run / "model.onnx").graph.initializer}
    sites = {site.name: site for site in SiteTable.load(tiny_run / "model.sites.json")}
    elements = sum(np.prod(stored[sites[name].tensor]) for name in ("block.0.mlp.fc1.weight", "head.bias"))
    weights = [line for line in compared["headline"]["a"] if line["where"] == "weight"]
    assert {line["op"]: line["bits"] for line in weights} == {
        op: (32 if op == "random" else 3) * elements for op in ("flip", "stuck0", "stuck1", "random")
    }  # of each word the spec names three bits


def test_the_same_faults_in_another_engine(tiny_run: Path, torch_run: Path) -> None:
    """Everything the comparison tells, recomputed from the two files."""
    compared = compared_json(tiny_run, torch_run)
    pairs = results(tiny_run).merge(results(torch_run), on=KEYS, suffixes=("", "_b"))
    assert compared["pairing"]["rows"] == len(pairs) == len(results(tiny_run))
    merged = {
        name: "inside" if name in INSIDE else name for name in ("identical", "masked", "sdc_tolerable", "sdc1", "sdc")
    }
    for record in compared["agreement"]:
        part = pairs[(pairs.target == record["target"]) & (pairs["where"] == record["where"])]
        part = part if record["op"] is None else part[part.op == record["op"]]
        weight = part.population / part.groupby("stratum").fault_id.transform("size")
        a, b = part.outcome.map(merged), part.outcome_b.map(merged)
        assert (record["faults"], record["rows"]) == (part.fault_id.nunique(), len(part))
        assert record["disagreeing_rows"] == (a != b).sum()
        assert record["agreement"]["rate"] == pytest.approx(np.average(a == b, weights=weight))
        assert record["same_golden_word"] == pytest.approx((part.golden_word == part.golden_word_b).mean())
        if a.nunique() == b.nunique() == 1:
            assert record["kappa"]["value"] is None
        else:
            assert record["kappa"]["value"] == pytest.approx(cohen_kappa_score(a, b, sample_weight=weight))
        told = record["matrix_all"]
        counted = pd.crosstab(part.outcome, part.outcome_b).reindex(
            index=told["outcomes"], columns=told["outcomes"], fill_value=0
        )
        assert told["rows"] == counted.to_numpy().tolist()
        assert np.sum(told["shares"]) == pytest.approx(1)
    listed = {(row["fault_id_a"], row["image_id"]) for row in compared["disagreements"]["listed"]}
    differing = pairs[pairs.outcome.map(merged) != pairs.outcome_b.map(merged)]
    assert listed == set(zip(differing.fault_id, differing.image_id, strict=True))


def test_two_engines_differ_by_rounding_or_say_by_what(tiny_run: Path, torch_run: Path) -> None:
    compared = compared_json(tiny_run, torch_run)
    for record in compared["agreement"]:
        assert record["agreement"]["rate"] > 0.97
    for row in compared["disagreements"]["listed"]:
        if row["differ_by"] == "tolerance":
            assert max(row["distance_a"], row["distance_b"]) < 1e-5


def test_faults_pair_by_what_they_are_and_not_by_their_number(tiny_run: Path, tmp_path: Path) -> None:
    def renumbered(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(fault_id=9999 - frame.fault_id, stratum=5000 - frame.stratum).iloc[::-1]

    compared = compared_json(tiny_run, edited(tiny_run, tmp_path / "b", renumbered, renumbered))
    assert (compared["pairing"]["only_a"], compared["pairing"]["only_b"]) == (0, 0)
    assert compared["disagreements"]["rows"] == 0


def test_faults_of_one_side_only_are_counted(tiny_run: Path, tmp_path: Path) -> None:
    kept = edited(tiny_run, tmp_path / "b", lambda rows: rows[rows.fault_id % 3 != 0])
    rows = results(tiny_run)
    compared = compared_json(tiny_run, kept)
    missing = int((rows.fault_id % 3 == 0).sum())
    assert compared["pairing"]["only_a"] == missing
    assert compared["pairing"]["only_b"] == 0
    assert compared["pairing"]["rows"] == len(rows) - missing
    assert compared_json(kept, tiny_run)["pairing"]["only_b"] == missing


def test_identical_against_masked_is_no_disagreement(tiny_run: Path, tmp_path: Path) -> None:
    swapped = edited(tiny_run, tmp_path / "b", with_outcome("masked", lambda rows: rows.outcome == "identical"))
    compared = compared_json(tiny_run, swapped)
    found = one(compared, "model", "activation")
    assert found["kappa"]["value"] == 1
    assert found["disagreeing_rows"] == compared["disagreements"]["rows"] == 0
    assert found["kappa_all"]["value"] < 0.9
    assert found["agreement_all"]["rate"] < 1


def test_an_undefined_kappa_is_null_with_its_reason(tiny_run: Path, tmp_path: Path) -> None:
    masked = edited(tiny_run, tmp_path / "b", with_outcome("masked", lambda rows: rows.outcome == rows.outcome))
    for record in compared_json(masked, masked)["agreement"]:
        assert record["kappa"] == {"value": None, "low": None, "high": None, "undefined": record["kappa"]["undefined"]}
        assert "'inside'" in record["kappa"]["undefined"]
        assert "'masked'" in record["kappa_all"]["undefined"]
        assert record["agreement"]["rate"] == 1


def test_every_disagreement_is_told_with_both_sides(tiny_run: Path, tmp_path: Path) -> None:
    """Known differences, one of each kind: what differs, and how far from the tolerance."""
    rows = results(tiny_run)
    model = rows[(rows.target == "model") & rows.bit.notna()]
    tolerable = model[(model.outcome == "sdc_tolerable") & ~model.nonfinite.astype(bool)].index[:3]
    rtol_column = 3  # 1e-4 on the grid, the campaign's own

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.assign(outcome=frame.outcome.astype(str))
        lists = frame.masking_atol.copy()
        inside, moved, burst = tolerable
        frame.loc[inside, "outcome"] = "masked"
        lists[inside] = [0.0, 0.0, 0.0, 3e-5, 0.0, 0.0]
        frame.loc[[moved, burst], "outcome"] = "sdc1"
        frame.loc[moved, "top1_faulty"], frame.loc[burst, "top1_faulty"] = 7, -1
        frame.loc[burst, "nonfinite"] = True
        frame.loc[burst, ["max_abs_diff", "margin_faulty"]] = [np.inf, np.nan]
        lists[burst] = [np.inf] * 6
        return frame.assign(masking_atol=lists)

    compared = compared_json(tiny_run, edited(tiny_run, tmp_path / "b", change))
    listed = {row["differ_by"]: row for row in compared["disagreements"]["listed"]}
    assert [row["differ_by"] for row in compared["disagreements"]["listed"]] == ["nonfinite", "top1", "tolerance"]
    for kind, index in zip(("tolerance", "top1", "nonfinite"), tolerable, strict=True):
        row, source = listed[kind], rows.loc[index]
        for name in ("target", "where", "site", "index", "op", "bit", "image_id", "tier", "top1_golden"):
            assert row[name] == source[name]
        assert row["fault_id_a"] == row["fault_id_b"] == source.fault_id
        assert (row["outcome_a"], row["max_abs_diff_a"]) == ("sdc_tolerable", source.max_abs_diff)
        assert row["masking_atol_a"] == source.masking_atol[rtol_column]
        assert row["distance_a"] == pytest.approx(source.masking_atol[rtol_column] - 1e-4)
        assert row["margin_faulty_a"] == pytest.approx(source.margin_faulty)
    assert listed["tolerance"]["outcome_b"] == "masked"
    assert listed["tolerance"]["distance_b"] == pytest.approx(7e-5)
    assert (listed["top1"]["top1_faulty_a"], listed["top1"]["top1_faulty_b"]) == (rows.loc[tolerable[1]].top1_faulty, 7)
    burst = listed["nonfinite"]
    assert burst["max_abs_diff_b"] is burst["distance_b"] is burst["margin_faulty_b"] is None
    assert burst["top1_faulty_b"] == -1
    assert {cause["differ_by"]: cause["rows"] for cause in compared["disagreements"]["by_cause"]} == dict.fromkeys(
        listed, 1
    )
    json.dumps(compared, allow_nan=False)


def test_a_bit_that_had_its_value_already_in_one_engine_is_told(tiny_run: Path, tmp_path: Path) -> None:
    rows = results(tiny_run)
    chosen = rows[(rows.op == "stuck1") & (rows.golden_word != rows.faulty_word) & ~rows.outcome.isin(INSIDE)].index[0]

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.assign(outcome=frame.outcome.astype(str))
        frame.loc[chosen, ["outcome", "golden_word"]] = ["identical", frame.loc[chosen, "faulty_word"]]
        return frame

    (row,) = compared_json(tiny_run, edited(tiny_run, tmp_path / "b", change))["disagreements"]["listed"]
    assert row["differ_by"] == "unchanged"


def test_a_detector_in_one_engine_only_is_told(tiny_run: Path, tmp_path: Path) -> None:
    seen = edited(
        tiny_run,
        tmp_path / "b",
        with_outcome("due", lambda rows: rows.nonfinite.fillna(False).astype(bool)),
        manifest=lambda manifest: manifest["spec"].update(detector="nonfinite"),
    )
    compared = compared_json(tiny_run, seen)
    assert compared["disagreements"]["rows"] > 0
    assert {row["differ_by"] for row in compared["disagreements"]["listed"]} == {"due"}
    assert compared["notes"] == ["the detectors differ: A none, B nonfinite"]


def test_what_else_differs_is_noted(tiny_run: Path, tmp_path: Path) -> None:
    def other(manifest: dict[str, Any]) -> None:
        manifest["spec"]["tolerance"]["atol"] = [1e-3, 1e-4]
        manifest["spec"]["confidence"] = 0.9

    notes = compared_json(tiny_run, edited(tiny_run, tmp_path / "b", manifest=other))["notes"]
    assert any("A atol 0.0001 and rtol 0.0001, B atol 0.001 0.0001 and rtol 0.0001" in note for note in notes)
    assert any("0.95" in note and "0.9" in note for note in notes)
    assert len(notes) == 2


# ---- refusals


def test_two_models_are_not_compared(tiny_run: Path, tmp_path: Path) -> None:
    def other(manifest: dict[str, Any]) -> None:
        manifest["stages"]["train"]["outputs"]["model.safetensors"] = "0" * 64

    with pytest.raises(UsageError, match="two trained models"):
        compared_json(tiny_run, edited(tiny_run, tmp_path / "b", manifest=other))


def file_campaign(model: Path, folder: Path) -> Path:
    """A campaign of this run's plain file, of the tiny campaign's faults in the whole model."""
    values = tiny_values() | {"name": folder.name, "model": {"onnx": str(model / "model.onnx")}}
    return finished(folder, values | {"faults": values["faults"][:2]})


def test_a_file_of_another_model_is_not_compared(tiny_run: Path, shared_folder: Path, tmp_path: Path) -> None:
    """Each of its faults has a namesake: nothing but the weights tells that it is another model."""
    other = tmp_path / "other"
    other.mkdir()
    proto = onnx.load(tiny_run / "model.onnx")
    generator = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 16:
            moved = values + generator.normal(0, 0.05 * values.std(), values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    onnx.save(proto, other / "model.onnx")
    same = file_campaign(tiny_run, shared_folder / "runs" / "tiny-file")
    another = file_campaign(other, shared_folder / "runs" / "other-file")
    for first, second in ((tiny_run, another), (another, same)):
        with pytest.raises(UsageError, match=r"campaigns of two models: \d+ of 1\d weights differ") as refused:
            compare_campaigns(first, second)
        assert "\n" not in str(refused.value)
        assert error_of(invoke("campaign", "compare", first, second), 2) == f"error: {refused.value}"


def test_a_file_of_the_trained_model_is_compared(tiny_run: Path, fp16_run: Path, shared_folder: Path) -> None:
    """By its weights: in the precision of the file, and in another one, to which they were rounded."""
    same = file_campaign(tiny_run, shared_folder / "runs" / "tiny-file")
    found = compared_json(tiny_run, same)
    assert found["pairing"]["rows"] == found["b"]["rows"] > 1000
    assert compared_json(fp16_run, same)["pairing"]["rows"] > 0


def test_without_a_common_fault_there_is_nothing_to_compare(tiny_run: Path, tmp_path: Path) -> None:
    moved = edited(tiny_run, tmp_path / "b", lambda rows: rows.assign(index=rows["index"] + 10**6))
    with pytest.raises(UsageError, match="no fault and image in common"):
        compared_json(tiny_run, moved)


def test_an_unfinished_or_changed_campaign_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    unfinished = edited(tiny_run, tmp_path / "b", manifest=lambda manifest: manifest["stages"].pop("execute"))
    with pytest.raises(StaleArtefact, match="run the campaign to the end"):
        compared_json(tiny_run, unfinished)
    changed = edited(tiny_run, tmp_path / "c")
    rewritten(changed / "results.parquet", lambda rows: rows.assign(outcome="masked"))
    with pytest.raises(StaleArtefact, match=r"results\.parquet was edited"):
        compared_json(changed, tiny_run)


def test_a_folder_without_a_campaign_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        compared_json(tiny_run, tmp_path)
    other = edited(tiny_run, tmp_path / "b", manifest=lambda manifest: manifest.update(kind="training"))
    with pytest.raises(UsageError, match="no campaign but a training"):
        compared_json(other, tiny_run)


# ---- tables


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_the_table_holds_every_disagreement_or_every_role(
    tiny_run: Path, torch_run: Path, fp16_run: Path, tmp_path: Path, end: str
) -> None:
    read = pd.read_csv if end == "csv" else pd.read_parquet
    path = tmp_path / f"table.{end}"
    precisions = compare_campaigns(tiny_run, fp16_run)
    write_table(precisions, path)
    table = read(path)
    assert len(table) == len(precisions.to_json()["roles"])
    assert table["rates.outside.a.rate"].dropna().between(0, 1).all()
    changed = edited(tiny_run, tmp_path / "b", with_outcome("sdc", lambda rows: rows.index.to_series() % 5 == 0))
    engines = compare_campaigns(tiny_run, changed)
    write_table(engines, path)
    table, disagreements = read(path), engines.to_json()["disagreements"]
    assert len(table) == disagreements["rows"] > 0
    assert table.fault_id_a.tolist() == [row["fault_id_a"] for row in disagreements["listed"]]


def test_a_table_of_another_kind_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        write_table(compare_campaigns(tiny_run, tiny_run), tmp_path / "table.xlsx")
    assert not list(tmp_path.iterdir())
