"""The report of a campaign with faults of many words: each fault model by its name, none mixed with another."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.report.read.worst_rows import compositions, worst_predictions
from testbed.report.stage import report_stage
from tests.support.campaigns import run_here


@pytest.fixture(scope="module")
def run(tiny_spec: CampaignSpec, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    values = copy.deepcopy(tiny_spec.identity())
    one = {"target": "model", "where": "activation", "sites": ["*.mlp.*", "head"], "ops": ["flip"], "bits": [27, 30]}
    values["faults"] = [
        {**one, "pattern": "row", "per_stratum": 4},
        {**one, "pattern": "burst", "length": 3, "per_stratum": 10},
        {**one, "per_stratum": 10},
    ]
    folder = tmp_path_factory.mktemp("runs") / "patterned"
    run_here(parse_spec(values), folder)
    report_stage(folder)
    return folder


def test_shares_of_a_fault_model_are_its_own(run: Path) -> None:
    marginals = json.loads((run / "summary.json").read_text())["marginals"]
    rates = {m["op"]: m for m in marginals if m["by"] == "all"}
    found = {op: shares for (_, _, op, bits), shares in compositions(run).items() if bits == "all"}
    assert list(found) == sorted(rates) == ["flip", "flip x burst-3", "flip x row"]
    for op, composition in found.items():
        outside = sum(composition.shares.get(name, 0) for name in ("sdc_tolerable", "sdc1", "due"))
        assert outside == pytest.approx(rates[op]["rates"]["outside"]["rate"])
        assert composition.rows == rates[op]["n"]


def test_the_page_names_every_fault_model_and_shows_single_ones_first(run: Path) -> None:
    page = (run / "report.html").read_text()
    for name in ("bit flips, row", "bit flips, burst-3"):
        assert name in page
    assert "Activations, bit flips<" in page
    assert any(fault.points > 1 for fault in worst_predictions(run, "activation", 50))
    assert "more (row)" in page or "more (burst-3)" in page
