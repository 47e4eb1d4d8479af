"""Two campaigns of which each has a precision of its own: bits are compared by their roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from tests.support.comparisons import INSIDE, LEG, compared_json, edited, results, with_outcome


def role(fmt: str, bit: float) -> str:
    """Written out, not asked of the code."""
    if np.isnan(bit):
        return "word"
    sign, mantissa = {"fp32": (31, 23), "fp16": (15, 10), "int8": (7, None)}[fmt]
    if bit == sign:
        return "sign"
    return "magnitude" if mantissa is None else "exponent" if bit >= mantissa else "mantissa"


def measured(run: Path) -> pd.DataFrame:
    rows = results(run)
    rows["role"] = [role(fmt, bit) for fmt, bit in zip(rows.format, rows.bit, strict=True)]
    rows["sdc1"] = rows.outcome == "sdc1"
    rows["outside"] = ~rows.outcome.isin(INSIDE)
    rows["nonfinite"] = rows.nonfinite.fillna(False).astype(bool)
    rows["weight"] = rows.population / rows.groupby("stratum").fault_id.transform("size")
    return rows


def test_rates_per_role_are_those_of_the_files(tiny_run: Path, fp16_run: Path) -> None:
    compared = compared_json(tiny_run, fp16_run)
    assert compared["mode"] == "precisions"
    sides = {"a": measured(tiny_run), "b": measured(fp16_run)}
    checked = set()
    for record in compared["roles"]:
        assert (record["format_a"], record["format_b"]) == ("fp32", "fp16")
        for side, rows in sides.items():
            part = rows[(rows[[*LEG, "op"]] == [record[key] for key in (*LEG, "op")]).all(axis=1)]
            part = part if record["role"] == "all" else part[part.role == record["role"]]
            if part.empty:
                assert record[side] is None
                continue
            assert record[side] == {"faults": part.fault_id.nunique(), "rows": len(part)}
            for measure, told in record["rates"].items():
                if told is None:
                    assert (measure, record["target"]) == ("sdc1", "attention")
                    continue
                assert told[side]["rate"] == pytest.approx(np.average(part[measure], weights=part.weight))
                assert 0 <= told[side]["low"] <= told[side]["rate"] <= told[side]["high"] <= 1
            checked.add((side, record["role"]))
        for told in filter(None, record["rates"].values()):
            if record["a"] and record["b"]:
                gap = told["difference"]
                assert gap["value"] == pytest.approx(told["a"]["rate"] - told["b"]["rate"])
                assert gap["low"] <= gap["value"] <= gap["high"]
            else:
                assert told["difference"] is None
    roles = {"all", "sign", "exponent", "mantissa", "word"}
    assert checked == {(side, name) for side in "ab" for name in roles}


def test_pairs_share_site_index_image_operation_and_role(tiny_run: Path, fp16_run: Path) -> None:
    place = ["target", "where", "op", "role", "site", "index", "image_id"]
    a, b = (measured(run).groupby(place).size() for run in (tiny_run, fp16_run))
    wanted = pd.concat([a, b], axis=1).dropna().min(axis=1)
    compared = compared_json(tiny_run, fp16_run)
    assert compared["pairing"]["rows"] == wanted.sum() > 0
    per_role = wanted.groupby(["target", "where", "op", "role"]).sum()
    told = {
        tuple(record[key] for key in (*LEG, "op", "role")): record["paired"]
        for record in compared["roles"]
        if record["paired"]
    }
    assert {key: paired["rows"] for key, paired in told.items()} == per_role.to_dict()
    for key, paired in told.items():
        for side, fmt in (("a", "fp32"), ("b", "fp16")):
            assert all(role(fmt, bit) == key[3] for bit in paired[f"bits_{side}"])
        for measure, events in paired["events"].items():
            assert sum(events.values()) == paired["rows"]
            gap = paired["rates"][measure]["difference"]
            assert -1 <= gap["low"] <= gap["value"] <= gap["high"] <= 1


def as_bf16(manifest: dict[str, Any]) -> None:
    manifest["spec"]["engine"] |= {"precision": "bf16", "backend": "torch"}
    for section in manifest["spec"]["faults"]:
        section["bits"] = "all"


def test_a_campaign_in_another_precision_with_the_same_rows_has_no_difference(tiny_run: Path, tmp_path: Path) -> None:
    """All its faults pair with themselves, and what moves together differs by nothing."""
    same = edited(tiny_run, tmp_path / "b", manifest=as_bf16)
    compared = compared_json(tiny_run, same)
    assert compared["pairing"]["rows"] == len(results(tiny_run))
    for record in compared["roles"]:
        for told in filter(None, record["rates"].values()):
            assert told["difference"]["value"] == 0
            assert told["difference"]["low"] < 0 < told["difference"]["high"]
        if record["role"] == "all":
            assert record["paired"] is None
            continue
        assert record["paired"]["rows"] == record["a"]["rows"]
        for measure, events in record["paired"]["events"].items():
            assert events["only_a"] == events["only_b"] == 0
            gap = record["paired"]["rates"][measure]["difference"]
            if 0 < events["both"] < record["paired"]["rows"]:
                alone = record["rates"][measure]["difference"]
                assert gap["low"] > alone["low"]
                assert gap["high"] < alone["high"]


def test_events_of_pairs_are_told_by_side(tiny_run: Path, tmp_path: Path) -> None:
    """In B nothing is outside the tolerance any more: what A saw, only A saw."""
    tame = edited(
        tiny_run, tmp_path / "b", with_outcome("masked", lambda rows: rows.outcome == rows.outcome), manifest=as_bf16
    )
    rows = measured(tiny_run)
    for record in compared_json(tiny_run, tame)["roles"]:
        if record["role"] == "all":
            continue
        part = rows[(rows[[*LEG, "op", "role"]] == [record[key] for key in (*LEG, "op", "role")]).all(axis=1)]
        outside = int(part.outside.sum())
        assert record["paired"]["events"]["outside"] == {
            "both": 0,
            "only_a": outside,
            "only_b": 0,
            "neither": len(part) - outside,
        }


def test_integers_have_a_magnitude_and_no_exponent(tiny_run: Path, tmp_path: Path) -> None:
    """Some sites quantised: they are told apart from those that stay fp32, and keep to their own roles."""

    def quantised(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = frame.site.astype(str).str.contains("mlp|fc1")
        bits = {0: 0, 12: 3, 3: 3, 30: 6, 31: 7}
        frame = frame.assign(format=frame.format.astype(str).where(~chosen, "int8"))
        return frame.assign(bit=frame.bit.where(~chosen, frame.bit.map(bits)).astype("Int16"))

    def int8(manifest: dict[str, Any]) -> None:
        manifest["spec"]["engine"]["precision"] = "int8"
        for section in manifest["spec"]["faults"]:
            section["bits"] = "all"

    compared = compared_json(tiny_run, edited(tiny_run, tmp_path / "b", quantised, manifest=int8))
    found = {
        (r["format_b"], r["role"]): r
        for r in compared["roles"]
        if (r["target"], r["where"], r["op"]) == ("model", "activation", "flip")
    }
    floats = {("fp32", name) for name in ("all", "sign", "exponent", "mantissa")}
    assert set(found) == floats | {("int8", name) for name in ("all", "sign", "exponent", "mantissa", "magnitude")}
    for name in ("exponent", "mantissa"):
        assert found["int8", name]["a"]["rows"] > 0
        assert found["int8", name]["b"] is None
        assert found["int8", name]["rates"]["sdc1"]["b"] is None
    assert found["int8", "magnitude"]["a"] is None
    assert found["int8", "magnitude"]["b"]["rows"] == sum(
        found["int8", name]["a"]["rows"] for name in ("exponent", "mantissa")
    )
    assert found["int8", "sign"]["paired"]["rows"] == found["int8", "sign"]["a"]["rows"]
    assert all(record["format_a"] == "fp32" for record in found.values())


def test_only_common_sites_and_images_are_compared(tiny_run: Path, fp16_run: Path, tmp_path: Path) -> None:
    images = json.loads((fp16_run / "tiers.json").read_text())
    gone = images["named"].pop()["id"]

    def other(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(site=frame.site.astype(str).str.replace("head", "header", regex=False))

    b = edited(fp16_run, tmp_path / "b", other, other)
    (b / "tiers.json").write_text(json.dumps(images))
    manifest = json.loads((b / "manifest.json").read_text())
    manifest["stages"]["tiers"]["outputs"]["tiers.json"] = sha256_file(b / "tiers.json")
    (b / "manifest.json").write_text(json.dumps(checksummed(manifest)))

    compared = compared_json(tiny_run, b)
    pairing = compared["pairing"]
    a = measured(tiny_run)
    common = a[~a.site.str.contains("head") & (a.image_id != gone)]
    assert pairing["sites_only_a"] == pairing["sites_only_b"] > 0
    assert pairing["sites"] == common[[*LEG, "site"]].drop_duplicates().shape[0]
    assert any("images" in note for note in compared["notes"])
    for record in compared["roles"]:
        part = common[(common[[*LEG, "op"]] == [record[key] for key in (*LEG, "op")]).all(axis=1)]
        part = part if record["role"] == "all" else part[part.role == record["role"]]
        assert record["a"] == {"faults": part.fault_id.nunique(), "rows": len(part)}
        rate = record["rates"]["outside"]["a"]["rate"]
        assert rate == pytest.approx(np.average(part.outside, weights=part.weight))


def test_precisions_without_a_common_site_are_refused(tiny_run: Path, fp16_run: Path, tmp_path: Path) -> None:
    other = edited(fp16_run, tmp_path / "b", lambda rows: rows.assign(site="elsewhere"))
    with pytest.raises(UsageError, match="no struck site in common"):
        compared_json(tiny_run, other)
