"""A trade-off of protection against pandas on the files of its campaigns."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.protect.tradeoff.campaigns import read_campaigns
from testbed.protect.tradeoff.record import ProtectionTradeoff
from testbed.protect.tradeoff.weigh import WeighRequest, weigh_protection
from testbed.publish.tradeoff_figures import draw_hypothetical
from tests.protect.tradeoff.conftest import ACTIVATIONS, QUICK, Campaigns, run
from tests.support.comparisons import results

KEYS = ["target", "where", "site", "index", "op", "pattern", "bit", "and_mask", "or_mask", "xor_mask", "image_id"]
QUIET = ["identical", "masked", "detected"]


def paired(plain: Path, protected: Path, where: str) -> pd.DataFrame:
    """Rows of both, with the weight of each."""
    rows = results(plain).merge(results(protected), on=KEYS, suffixes=("", "_b"))
    rows = rows[rows["where"] == where]
    return rows.assign(weight=rows["population"] / rows.groupby("stratum")["fault_id"].transform("size"))


def had(outcome: pd.Series, event: str) -> pd.Series:
    return outcome == "sdc1" if event == "sdc1" else ~outcome.isin(QUIET)


def covered_sites(protected: Path) -> set[str]:
    """Activations that the deployed file says its places cover."""
    (text,) = [
        entry.value
        for entry in onnx.load(str(protected / "model.onnx")).metadata_props
        if entry.key == "testbed.protection"
    ]
    return {site for step in json.loads(text) for spot in step["places"] for site in spot["covers"]}


def test_what_is_left_is_the_paired_rows(weighed: ProtectionTradeoff, tradeoff_campaigns: Campaigns) -> None:
    folders = {"vit-guarded": tradeoff_campaigns.guarded, "vit-checked": tradeoff_campaigns.checked}
    told = {(point.model, point.where, point.event): point for point in weighed.points}
    assert set(told) == {
        (model, where, event)
        for model in ("vit", *folders)
        for where in ("activation", "weight")
        for event in ("sdc1", "outside")
        if (model, where) != ("vit-checked", "weight")
    }
    for (model, where, event), point in told.items():
        if model == "vit":
            rows = results(tradeoff_campaigns.plain)
            rows = rows[rows["where"] == where]
            weight = rows["population"] / rows.groupby("stratum")["fault_id"].transform("size")
            assert point.left.rate == pytest.approx(np.average(had(rows.outcome, event), weights=weight))
            assert point.removed is None
            continue
        rows = paired(tradeoff_campaigns.plain, folders[model], where)
        assert point.rows == len(rows)
        rates = [np.average(had(rows[name], event), weights=rows.weight) for name in ("outcome", "outcome_b")]
        assert (point.before.rate, point.left.rate) == pytest.approx(rates)
        assert point.left.low <= point.left.rate <= point.left.high
        assert point.removed is not None
        assert point.removed.share == pytest.approx(1 - rates[1] / rates[0])
        assert point.detected is not None
        affected = rows[had(rows.outcome, event)]
        assert point.detected.rate == pytest.approx(
            np.average(affected.outcome_b == "detected", weights=affected.weight), abs=1e-12
        )
        assert point.detected.low_99 <= point.detected.low_95 <= point.detected.rate


@pytest.mark.parametrize("event", ["sdc1", "outside"])
@pytest.mark.parametrize("model", ["guarded", "checked"])
def test_the_account_of_a_removal_is_the_rows_by_site(
    weighed: ProtectionTradeoff, tradeoff_campaigns: Campaigns, model: str, event: str
) -> None:
    (account,) = [a for a in weighed.removals if (a.model, a.where, a.event) == (f"vit-{model}", "activation", event)]
    folder = getattr(tradeoff_campaigns, model)
    rows = paired(tradeoff_campaigns.plain, folder, "activation")
    before, after = had(rows.outcome, event), had(rows.outcome_b, event)
    covered, alarm = rows.site.isin(covered_sites(folder)), rows.outcome_b == "detected"
    total = rows.weight[before].sum()

    def share(members: pd.Series) -> float:
        return float(rows.weight[members].sum() / total)

    assert (account.covered_sites, account.sites) == (rows.site[covered].nunique(), rows.site.nunique())
    assert account.expected.share == pytest.approx(share(before & covered))
    assert account.left_at_covered.share == pytest.approx(share(before & covered & after), abs=1e-12)
    assert account.mended_elsewhere.share == pytest.approx(share(before & ~covered & ~after & ~alarm), abs=1e-12)
    assert account.noticed_elsewhere.share == pytest.approx(share(before & ~covered & alarm), abs=1e-12)
    assert account.added == pytest.approx(share(~before & after), abs=1e-12)
    assert account.added_rows == (~before & after).sum()
    assert account.left_at_covered.rows == (before & covered & after).sum()
    elsewhere = account.mended_elsewhere.share + account.noticed_elsewhere.share
    assert account.removed.share == pytest.approx(
        account.expected.share - account.left_at_covered.share + elsewhere - account.added
    )
    assert f"{100 * account.expected.share:.1f} %" in account.why
    for part in (account.left_at_covered, account.mended_elsewhere, account.noticed_elsewhere):
        assert not part.rows or f"({part.rows:,} rows)" in account.why
        assert part.low <= part.share <= part.high


def test_guards_mend_what_they_do_not_cover(weighed: ProtectionTradeoff) -> None:
    """Of the tiny model, as of large ones: a case in which the account has something to explain."""
    (account,) = [a for a in weighed.removals if (a.model, a.where, a.event) == ("vit-guarded", "activation", "sdc1")]
    assert account.mended_elsewhere.rows > 0
    assert account.noticed_elsewhere.rows == 0
    assert "mended downstream of sites that no place covers" in account.why


def test_latency_is_of_the_files_that_were_run(weighed: ProtectionTradeoff, tradeoff_campaigns: Campaigns) -> None:
    base = tradeoff_campaigns.plain.parent
    campaigns = (tradeoff_campaigns.plain, tradeoff_campaigns.guarded, tradeoff_campaigns.checked)
    plain = weighed.plain
    for model, campaign in zip((plain, *weighed.models), campaigns, strict=True):
        assert model.folder == str(base / model.name)
        assert model.campaigns == [str(campaign)]
        assert model.deployment_id == sha256_file(campaign / "model.onnx")[:16]
        assert model.twin_hashes == sorted(results(campaign)["engine_hash"].astype(str).unique())
        assert model.engine_hash not in model.twin_hashes
        assert [row.batch for row in model.latency] == [1, 4]
        for row, of_plain in zip(model.latency, plain.latency, strict=True):
            assert row.runs == len(row.latency_ms) == len(of_plain.latency_ms)
            assert row.ratio == pytest.approx(np.median(row.latency_ms) / np.median(of_plain.latency_ms))
            assert row.low is not None
            assert row.high is not None
            assert row.low <= row.ratio <= row.high
    assert (plain.macs_added_percent, plain.operations_added_percent) == (0, 0)
    guarded, checked = weighed.models
    assert guarded.macs_added_percent == 0 < guarded.operations_added_percent
    assert 0 < checked.macs_added_percent == pytest.approx(100 * (checked.macs / plain.macs - 1))
    assert guarded.false_alarms == []
    assert {alarms.source for alarms in checked.false_alarms} == {"campaign", "protection"}


def test_the_curve_ends_where_its_places_cover_all_they_can(
    weighed: ProtectionTradeoff, tradeoff_campaigns: Campaigns
) -> None:
    """Checks cover every site of activations; the shares are the plain campaign's rows."""
    (curve,) = [c for c in weighed.curves if (c.passes, c.where, c.event) == (["checksum"], "activation", "outside")]
    rows = results(tradeoff_campaigns.plain)
    rows = rows[(rows["where"] == "activation") & had(rows.outcome, "outside")]
    assert curve.greedy[0].share == 0
    assert curve.greedy[0].left == pytest.approx(curve.before.rate)
    assert curve.greedy[-1].share == pytest.approx(1)
    assert curve.greedy[-1].left == pytest.approx(0, abs=1e-12)
    for step in (*curve.greedy, *curve.exact):
        assert step.left == pytest.approx(curve.before.rate * (1 - step.share))
        assert step.low <= step.share <= step.high
    for choice in curve.exact:
        affordable = [step.share for step in curve.greedy if step.cost_percent <= choice.cost_percent + 1e-12]
        assert choice.share >= max(affordable) - 1e-9
    assert len(rows)


def test_places_can_cost_latency_instead(tradeoff_campaigns: Campaigns) -> None:
    """The same shares of the same places; costs are what was measured, none below nothing."""
    plain, guarded, _ = tradeoff_campaigns
    request = replace(QUICK, batches=(1,), curve_cost="latency")
    weighed = weigh_protection([plain, guarded], request)
    assert {curve.cost for curve in weighed.curves} == {"latency"}
    for curve in weighed.curves:
        costs = [step.cost_percent for step in curve.greedy]
        assert costs == sorted(costs)
        assert costs[0] == 0
        assert [step.places for step in curve.greedy] == list(range(len(costs)))
    assert draw_hypothetical(weighed).get_supxlabel().startswith("cost (% of the plain model's latency at batch 1)")


def test_order_of_the_campaigns_does_not_matter(weighed: ProtectionTradeoff, tradeoff_campaigns: Campaigns) -> None:
    again = read_campaigns([tradeoff_campaigns.checked, tradeoff_campaigns.plain, tradeoff_campaigns.guarded])
    assert again.plain.deployment_id == weighed.plain.deployment_id
    assert {model.deployment_id for model in again.protected} == {model.deployment_id for model in weighed.models}


def test_campaigns_of_one_kind_of_fault_each_are_the_same_as_one_of_both(
    weighed: ProtectionTradeoff, tradeoff_campaigns: Campaigns, tmp_path: Path
) -> None:
    """Activations and weights of the plain model in two campaigns: the guarded one pairs with both."""
    model = tradeoff_campaigns.plain.with_name("vit")
    spec = json.loads((tradeoff_campaigns.plain / "manifest.json").read_text())["spec"]["faults"]
    parts = [run(model, tmp_path / str(number), [section]) for number, section in enumerate(spec)]
    apart = read_campaigns([*parts, tradeoff_campaigns.guarded])
    assert {key[1]: side.path for key, side in apart.plain_of.items()} == {"activation": parts[0], "weight": parts[1]}
    assert len(apart.pairs) == 2
    assert sum(pair.rows.pairing.rows for pair in apart.pairs) > 0


class TestRefusals:
    """One line each, before anything is timed."""

    def test_one_side_alone(self, tradeoff_campaigns: Campaigns) -> None:
        plain, guarded, checked = tradeoff_campaigns
        with pytest.raises(UsageError, match="name the plain model's campaign too"):
            read_campaigns([guarded, checked])
        with pytest.raises(UsageError, match="none of these is a campaign of a protected model"):
            read_campaigns([plain])
        with pytest.raises(UsageError, match="named twice"):
            read_campaigns([plain, guarded, plain])

    def test_two_that_tell_the_same(self, tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
        plain, guarded, _ = tradeoff_campaigns
        other = run(plain.with_name("vit-guarded"), tmp_path / "other", [ACTIVATIONS | {"per_stratum": 2}])
        with pytest.raises(UsageError, match=r"both tell of flip in activations .* name one of them"):
            read_campaigns([plain, guarded, other])

    def test_another_engine(self, tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
        plain, guarded, _ = tradeoff_campaigns
        engine = {"backend": "openvino", "batch": 16}
        faults = [ACTIVATIONS | {"per_stratum": 1, "bits": [30]}]
        other = run(plain.with_name("vit-guarded"), tmp_path / "other", faults, engine=engine)
        with pytest.raises(UsageError, match=r"ran in ort-cpu fp32 and .* in openvino fp32"):
            read_campaigns([plain, guarded, other])

    def test_nothing_in_common(self, tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
        plain, _, _ = tradeoff_campaigns
        faults = [ACTIVATIONS | {"per_stratum": 1, "ops": ["random"]}]
        del faults[0]["bits"]
        other = run(plain.with_name("vit-guarded"), tmp_path / "other", faults)
        with pytest.raises(UsageError, match="has random in activations, the plain ones flip in activations"):
            read_campaigns([plain, other])

    def test_a_model_that_is_gone_or_another(self, tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
        plain, guarded, _ = tradeoff_campaigns
        model, kept = plain.with_name("vit-guarded"), plain.with_name("kept")
        model.rename(kept)
        try:
            with pytest.raises(UsageError, match=r"is no longer in .*vit-guarded"):
                weigh_protection([plain, guarded], QUICK)
            shutil.copytree(plain.with_name("vit-checked"), model)
            with pytest.raises(UsageError, match=r"vit-guarded deploys another file .* run the campaign again"):
                weigh_protection([plain, guarded], QUICK)
        finally:
            shutil.rmtree(model, ignore_errors=True)
            kept.rename(model)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"batches": (1, 1)}, "each number once"),
            ({"batches": ()}, "1 or more"),
            ({"budget_percent": 0.0}, "above 0"),
        ],
    )
    def test_nothing_to_measure(self, tradeoff_campaigns: Campaigns, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            weigh_protection(tradeoff_campaigns, WeighRequest(**changes))
