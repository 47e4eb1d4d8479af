"""Failure rates of a finished campaign, recomputed with pandas; other exposures need no fault run again."""

from __future__ import annotations

import html
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from testbed.campaign.folder.workplace import recorded_spec
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.summary.exposure import contributions
from testbed.campaign.summary.record import Summary
from testbed.campaign.summary.tally import Tally, populations
from testbed.cli.tables.summary import summary_tables
from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import SiteTable
from testbed.report.page import render
from testbed.report.read.evidence import read_evidence

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
    tiny_spec: CampaignSpec, tiny_copy: Path, run_spec: Callable[..., Summary]
) -> None:
    results = sha256_file(tiny_copy / "results.parquet")
    spec = exposed(tiny_spec, sites=WEIGHTS, per_bit=True, unit="failures in 10^9 h")
    summary = run_spec(spec, tiny_copy, redo="summary")
    assert sha256_file(tiny_copy / "results.parquet") == results
    assert summary.exposure is not None
    told = summary.exposure.to_json()
    assert (told["unit"], told["per_bit"], told["weights"]) == ("failures in 10^9 h", True, WEIGHTS)
    tables: dict[str, SiteTable] = {
        target: SiteTable.load(tiny_copy / f"{target}.sites.json") for target in spec.targets
    }
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


def plans_of(run: Path) -> pd.DataFrame:
    return pd.concat(pq.read_table(path).to_pandas() for path in sorted(run.glob("faults*.parquet")))


def test_strata_that_unite_sites_give_each_site_its_own_exposure(adaptive_run: Path) -> None:
    told = json.loads((adaptive_run / "summary.json").read_text())["exposure"]
    tables = {"model": SiteTable.load(adaptive_run / "model.sites.json")}
    population = plans_of(adaptive_run)[["fault_id", "population"]]
    rows = pq.read_table(adaptive_run / "results.parquet").to_pandas().merge(population, on="fault_id")
    rows["outside"] = ~rows.outcome.isin(["identical", "masked"])
    rows["weight"] = rows.population / rows.groupby("stratum").stratum.transform("size")
    assert rows.groupby(["stratum"]).site.nunique().max() > 1
    assert len(told["models"]) == 3
    for model in told["models"]:
        mine = rows[(rows["where"] == model["where"]) & (rows.op == model["op"])]
        total = 0.0
        for site, part in mine.groupby("site", observed=True):
            tensor = tables["model"][str(site)]
            exposure = (
                (1e-2 if str(site).endswith(("softmax", "head.bias")) else 1e-6) * tensor.elements * tensor.format.bits
            )
            total += exposure * float((part.weight * part.outside).sum() / part.weight.sum())
        assert model["outside"]["value"] == pytest.approx(total)
        assert model["outside"]["value"] == pytest.approx(sum(site["outside"]["value"] for site in model["sites"]))
        assert model["outside"]["low"] < model["outside"]["value"] <= model["outside"]["high"]
        assert model["outside"]["high"] <= model["outside"]["exposure"] * (1 + 1e-12)
        assert model["not_sampled"] == []


def test_activations_and_weights_of_one_fault_model_are_added_up(adaptive_run: Path) -> None:
    told = json.loads((adaptive_run / "summary.json").read_text())["exposure"]
    (total,) = told["totals"]  # random words were written to activations alone
    assert (total["target"], total["op"], total["pattern"]) == ("model", "flip", "single")
    parts = [model for model in told["models"] if model["op"] == "flip"]
    for measure in ("sdc1", "outside", "nonfinite"):
        one, other = (part[measure] for part in parts)
        assert total[measure]["value"] == pytest.approx(one["value"] + other["value"])
        assert total[measure]["exposure"] == pytest.approx(one["exposure"] + other["exposure"])
        below, above = (
            [abs(part["value"] - part[limit]) for part in (one, other, total[measure])] for limit in ("low", "high")
        )
        for first, second, whole in (below, above):
            assert max(first, second) <= whole <= first + second


def test_totals_are_told_in_the_terminal_and_on_the_page(adaptive_run: Path) -> None:
    summary = json.loads((adaptive_run / "summary.json").read_text())
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_tables(Summary.model_validate(summary), adaptive_run))
    assert isinstance(console.file, io.StringIO)
    terminal = console.file.getvalue()
    page = " ".join(html.unescape(re.sub("<[^>]*>", " ", render(read_evidence(adaptive_run), None))).split())
    assert "exposed sites, in FIT with 95 % intervals" in terminal
    names = ["model, activations, bit flips", "model, activations, random values", "model, weights, bit flips"]
    records = [*summary["exposure"]["models"], *summary["exposure"]["totals"]]
    for name, record in zip([*names, "model, activations and weights, bit flips"], records, strict=True):
        found = [record[measure] for measure in ("sdc1", "outside", "nonfinite")]
        cells = [f"{one['value']:.3g} [{one['low']:.3g}, {one['high']:.3g}]" for one in found]
        (line,) = [line for line in terminal.splitlines() if f"{name} " in line]
        assert [cell.strip() for cell in line.split("\u2502")[3:6]] == cells
        assert " ".join([name, f"{found[0]['exposure']:.3g}", *cells]) in page


def test_exposed_sites_without_a_fault_are_told_and_widen_the_upper_limit_alone(adaptive_run: Path) -> None:
    """As where max_faults ends a campaign in its first round: rows of one site are taken out."""
    tables = {"model": SiteTable.load(adaptive_run / "model.sites.json")}
    spec = exposed(
        recorded_spec(RunFolder.existing(adaptive_run)),
        sites={"*": 1e-6, "*.softmax": 1e-2, "head.bias": 1e-2},
        per_bit=True,
    )
    _, population = populations(
        [path for path in sorted(adaptive_run.glob("faults*.parquet")) if ".points" not in path.name]
    )
    tally = Tally.of(adaptive_run / "results.parquet")
    whole = contributions(spec, tables, tally, population)
    rows = pq.read_table(adaptive_run / "results.parquet").to_pandas()
    assert whole is not None
    with tempfile.TemporaryDirectory() as folder:
        left = rows[(rows["where"] != "weight") | (rows.site != "head.bias")]
        schema = pq.read_schema(adaptive_run / "results.parquet")
        pq.write_table(pa.Table.from_pandas(left, schema, preserve_index=False), f"{folder}/results.parquet")
        part = contributions(spec, tables, Tally.of(Path(folder) / "results.parquet"), population)
    assert part is not None
    before, after = whole.models[2], part.models[2]
    (lost,) = [site.outside.exposure for site in before.sites if site.site == "head.bias"]
    assert after.not_sampled == ["head.bias"]
    assert after.outside.exposure == pytest.approx(before.outside.exposure)
    assert after.outside.value == pytest.approx(sum(site.outside.value for site in after.sites))
    assert after.outside.high >= lost


def test_other_exposures_need_only_another_summary(
    tiny_spec: CampaignSpec, tiny_copy: Path, run_spec: Callable[..., Summary]
) -> None:
    assert json.loads((tiny_copy / "summary.json").read_text())["exposure"] is None
    one, two = (run_spec(exposed(tiny_spec, sites={"*.fc1": weight}), tiny_copy).exposure for weight in (2.0, 6.0))
    assert one is not None
    assert two is not None
    values = pd.DataFrame([(a.outside.value, b.outside.value) for a, b in zip(one.models, two.models, strict=True)])
    assert (values[1] - 3 * values[0]).abs().max() < 1e-9
    assert values[0].min() > 0
    assert run_spec(tiny_spec, tiny_copy).exposure is None


def test_an_exposure_of_no_site_with_faults_is_refused_before_a_fault_is_run(
    tiny_spec: CampaignSpec, gated: Path, run_spec: Callable[..., Summary]
) -> None:
    with pytest.raises(UsageError, match=r"exposure\.sites: no site that was struck matches 'patch_embed'"):
        run_spec(exposed(tiny_spec, sites={"patch_embed": 1.0}), gated)
    assert not (gated / "faults.parquet").exists()
