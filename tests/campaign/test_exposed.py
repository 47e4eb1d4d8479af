"""Failure rates of a finished campaign, recomputed with pandas; other exposures need no fault run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from testbed.campaign.spec import CampaignSpec, parse_spec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.files import sha256_file
from testbed.core.site import SiteTable

WEIGHTS = {"*": 1e-3, "block.0.mlp.*": 2e-3, "head": 0.0}


def exposed(spec: CampaignSpec, **exposure: Any) -> CampaignSpec:
    return parse_spec(spec.identity() | {"exposure": exposure})


def by_hand(run: Path, spec: CampaignSpec) -> dict[tuple[str, str, str], dict[str, float]]:
    """Fault model -> site -> its rate of outputs outside the tolerance, by the population of its strata."""
    columns = ["fault_id", "stratum", "target", "where", "op", "site", "outcome"]
    rows = pq.read_table(run / "results.parquet", columns=columns).to_pandas()
    plan = pq.read_table(run / "faults.parquet", columns=["fault_id", "population"]).to_pandas()
    rows = rows.merge(plan, on="fault_id")
    rows["outside"] = ~rows.outcome.isin(["identical", "masked"])
    keys = ["target", "where", "op", "site", "stratum"]
    strata = (
        rows.groupby(keys, observed=True).agg(rate=("outside", "mean"), weight=("population", "first")).reset_index()
    )
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for (target, where, op, site), part in strata.groupby(["target", "where", "op", "site"], observed=True):
        rate = float((part.rate * part.weight).sum() / part.weight.sum())
        found.setdefault((target, where, op), {})[site] = rate
    return found


def weight_of(site: str, tables: dict[str, SiteTable], target: str) -> float:
    per_bit = 0.0 if site == "head" else 2e-3 if site.startswith("block.0.mlp.") else 1e-3
    found = tables[target][site]
    return per_bit * found.elements * found.format.bits


def test_contributions_are_exposure_times_rate_and_the_total_is_their_sum(
    tiny_spec: CampaignSpec, tiny_copy: Path, run_spec: Callable[..., dict[str, Any]]
) -> None:
    results = sha256_file(tiny_copy / "results.parquet")
    spec = exposed(tiny_spec, sites=WEIGHTS, per_bit=True, unit="failures in 10^9 h")
    summary = run_spec(spec, tiny_copy, redo="summary")
    assert sha256_file(tiny_copy / "results.parquet") == results
    told = summary["exposure"]
    assert (told["unit"], told["per_bit"], told["weights"]) == ("failures in 10^9 h", True, WEIGHTS)
    tables = {target: SiteTable.load(tiny_copy / f"{target}.sites.json") for target in spec.targets}
    expected = by_hand(tiny_copy, spec)
    assert {(m["target"], m["where"], m["op"]) for m in told["models"]} == set(expected)
    for model in told["models"]:
        rates = {s: r for s, r in expected[model["target"], model["where"], model["op"]].items() if s != "head"}
        weights = {site: weight_of(site, tables, model["target"]) for site in rates}
        assert {site["site"] for site in model["sites"]} == set(rates)
        for site in model["sites"]:
            outside = site["outside"]
            assert outside["exposure"] == pytest.approx(weights[site["site"]])
            assert outside["value"] == pytest.approx(weights[site["site"]] * rates[site["site"]])
            assert 0 <= outside["low"] <= outside["value"] <= outside["high"] <= outside["exposure"]
            assert ("sdc1" in site) == (model["target"] == "model")
        total = model["outside"]
        assert total["exposure"] == pytest.approx(sum(weights.values()))
        assert total["value"] == pytest.approx(sum(weights[site] * rates[site] for site in rates))
        assert total["low"] <= total["value"] <= total["high"]
        assert total["low"] < total["high"]


def test_other_exposures_need_only_another_summary(
    tiny_spec: CampaignSpec, tiny_copy: Path, run_spec: Callable[..., dict[str, Any]]
) -> None:
    assert json.loads((tiny_copy / "summary.json").read_text())["exposure"] is None
    with pytest.raises(StaleArtefact, match="made from another exposure; rerun it with --redo summary"):
        run_spec(exposed(tiny_spec, sites={"*.fc1": 2.0}), tiny_copy)
    one, two = (
        run_spec(exposed(tiny_spec, sites={"*.fc1": weight}), tiny_copy, redo="summary")["exposure"]["models"]
        for weight in (2.0, 6.0)
    )
    values = pd.DataFrame([(a["outside"]["value"], b["outside"]["value"]) for a, b in zip(one, two, strict=True)])
    assert (values[1] - 3 * values[0]).abs().max() < 1e-9
    assert values[0].min() > 0
    assert run_spec(tiny_spec, tiny_copy, redo="summary")["exposure"] is None


def test_an_exposure_of_no_struck_site_is_refused_before_a_fault_is_run(
    tiny_spec: CampaignSpec, gated: Path, run_spec: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UsageError, match=r"exposure\.sites: no site that was struck matches 'patch_embed'"):
        run_spec(exposed(tiny_spec, sites={"patch_embed": 1.0}), gated)
    assert not (gated / "faults.parquet").exists()
