"""`campaign compare` where one side is of a protected model: alarms are an outcome of their own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.support.commands import invoke
from tests.support.comparisons import compared_json, results

KEYS = ["target", "where", "site", "index", "op", "bit", "and_mask", "or_mask", "xor_mask", "image_id"]


def test_alarms_on_one_side_are_a_kind_of_disagreement(protected_campaign: Path) -> None:
    protected = protected_campaign / "protected/campaign"
    compared = compared_json(protected_campaign, protected)
    assert compared["mode"] == "engines"
    pairs = results(protected_campaign).merge(results(protected), on=KEYS, suffixes=("", "_b"))
    alarms = pairs["outcome_b"].eq("detected") & ~pairs["outcome"].eq("due")
    assert alarms.any()
    causes = pd.DataFrame(compared["disagreements"]["by_cause"])
    assert causes[causes["differ_by"] == "detected"]["rows"].sum() == alarms.sum()
    assert "due" not in set(causes["differ_by"])
    for record in compared["agreement"]:
        if record["op"] is None:
            matrix = record["matrix_all"]
            of_place = pairs[pairs["where"] == record["where"]]
            across = dict(zip(matrix["outcomes"], map(sum, zip(*matrix["rows"], strict=True)), strict=True))
            assert across == {name: (of_place["outcome_b"] == name).sum() for name in matrix["outcomes"]}
    assert any("testbed protect compare" in note for note in compared["notes"])
    shown = invoke("campaign", "compare", protected_campaign, protected)
    assert "an alarm of the engine's own checks in one only" in " ".join(shown.stdout.split())


def test_alarms_have_a_rate_across_precisions(protected_campaign: Path, fp16_run: Path) -> None:
    protected = protected_campaign / "protected/campaign"
    compared = compared_json(protected, fp16_run)
    assert compared["mode"] == "precisions"
    rows = results(protected)
    rows["weight"] = rows["population"] / rows.groupby("stratum")["fault_id"].transform("size")
    sites = set(results(fp16_run)["site"])
    checked = 0
    for record in compared["roles"]:
        if record["role"] != "all" or record["where"] != "activation" or record["a"] is None:
            continue
        own = rows[(rows["where"] == "activation") & (rows["op"] == record["op"]) & rows["site"].isin(sites)]
        own = own[own["image_id"].isin(set(results(fp16_run)["image_id"]))]
        share = (own["outcome"].eq("detected") * own["weight"]).sum() / own["weight"].sum()
        if share == 0:
            assert "detected" not in record["rates"]
            continue
        checked += 1
        assert record["rates"]["detected"]["a"]["rate"] == pytest.approx(share)
        assert record["rates"]["detected"]["b"] is None or record["rates"]["detected"]["b"]["rate"] == 0
    assert checked > 0
