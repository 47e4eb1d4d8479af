"""Plain and protected campaigns, fault by fault: against pandas on their files, and whatever was drawn how."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import binomtest

from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import parse_spec
from testbed.cli.commands.results.protect_compare import compare_protected as command
from testbed.core.errors import StaleArtefact, UsageError
from testbed.protect.paired.compare import compare_protected
from tests.protect.paired.conftest import sections
from tests.support.campaigns import run_here
from tests.support.comparisons import Change, edited, results, rewritten, unchanged
from tests.support.protected import spec_values

KEYS = ["target", "where", "site", "index", "op", "pattern", "bit", "and_mask", "or_mask", "xor_mask", "image_id"]


def changed(
    source: Path,
    folder: Path,
    rows: Change = unchanged,
    plan: Change = unchanged,
    manifest: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """A copy of the run that had other results, plan or settings from the start."""
    edited(source, folder, rows, plan, manifest)
    for name in ("model.onnx", "faults.points.parquet"):
        shutil.copy(source / name, folder / name)
    return folder


def test_every_number_is_the_files(campaigns: Any) -> None:
    compared = compare_protected(*campaigns)
    plain, protected = results(campaigns.plain), results(campaigns.protected)
    pairs = plain.merge(protected, on=KEYS, suffixes=("", "_b"))
    assert compared.passes == ["range", "checksum"]
    assert (compared.pairing.rows, compared.pairing.faults) == (len(plain), plain.fault_id.nunique())
    assert compared.pairing.rows == len(pairs)
    assert compared.pairing.unmatched == []
    quiet = ["identical", "masked", "detected"]
    seen = set()
    for group in (group for group in compared.groups if group.by == "all"):
        own = pairs[
            (pairs["where"] == group.where) & (pairs["pattern"] == ("burst-3" if "burst" in group.op else "single"))
        ]
        weight = own["population"] / own.groupby("stratum")["fault_id"].transform("size")
        assert group.sdc1 is not None
        for change, before, after in (
            (group.sdc1, own.outcome == "sdc1", own.outcome_b == "sdc1"),
            (group.outside, ~own.outcome.isin(quiet), ~own.outcome_b.isin(quiet)),
        ):
            rates = np.average(before, weights=weight), np.average(after, weights=weight)
            assert (change.before.rate, change.after.rate) == pytest.approx(rates)
            assert change.removed.share == (pytest.approx(1 - rates[1] / rates[0]) if rates[0] else None)
            assert change.new_rows == (~before & after).sum()
        seen.add((group.where, group.op))
    assert seen == {("activation", "flip"), ("activation", "flip x burst-3"), ("weight", "flip")}
    assert any(entry.detected.rows for entry in compared.affected if entry.event == "sdc1")
    (flips,) = [entry for entry in compared.needless if (entry.where, entry.op) == ("activation", "flip")]
    alarms = pairs[(pairs["where"] == "activation") & (pairs.pattern == "single") & (pairs.outcome_b == "detected")]
    assert (flips.alarms, flips.needless) == (len(alarms), (alarms.mismatches_b == 0).sum())


def test_false_alarms_are_those_of_the_campaign_and_of_the_model_s_record(campaigns: Any) -> None:
    """One-sided upper bounds: SciPy's exact ones. Without the model's folder those of the campaign are left."""
    on_campaign, when_protected = compare_protected(*campaigns).false_alarms
    assert (on_campaign.source, on_campaign.images, on_campaign.alarms) == ("campaign", 6, 0)
    assert (when_protected.source, when_protected.engine) == ("protection", "ort-cpu")
    for entry, alarms, n in ((on_campaign, 0, 6), (when_protected, 1, 90)):
        for bound, level in ((entry.bound_95, 0.95), (entry.bound_99, 0.99)):
            exact = binomtest(alarms, n, alternative="less").proportion_ci(level, "exact").high
            assert bound == pytest.approx(exact, abs=1e-6)

    named = results(campaigns.protected).drop_duplicates("image_id")["tier"].value_counts().sort_index()
    assert [(tier.images, tier.alarms) for tier in on_campaign.by_tier if tier.images] == [(n, 0) for n in named]
    (low, wrong) = when_protected.by_tier
    assert (low.low, low.high, low.images, low.alarms, low.bound_95) == (0, 1, 60, 1, 0.08)
    assert (wrong.low, wrong.images, wrong.alarms) == (None, 30, 0)

    model = campaigns.protected.with_name("vit-protected")
    model.rename(model.with_name("gone"))
    try:
        assert [entry.source for entry in compare_protected(*campaigns).false_alarms] == ["campaign"]
    finally:
        model.with_name("gone").rename(model)


def test_faults_in_the_checks_are_told_apart(campaigns: Any) -> None:
    compared = compare_protected(*campaigns)
    rows = results(campaigns.protected)
    rows = rows[rows.site.str.startswith("protect.")]
    assert {entry.kind for entry in compared.checkers} == {"all", *rows.kind}
    for entry in compared.checkers:
        own = rows if entry.kind == "all" else rows[rows.kind == entry.kind]
        assert (entry.rows, entry.faults) == (len(own), own.fault_id.nunique())
        assert {part.outcome: part.rows for part in entry.outcomes} == own.outcome.value_counts().to_dict()
        weight = own["population"] / own.groupby("stratum")["fault_id"].transform("size")
        needless = (own.outcome == "detected") & (own.mismatches == 0)
        assert entry.needless.rate == pytest.approx(np.average(needless, weights=weight))


def test_pairs_do_not_know_how_faults_were_drawn(campaigns: Any, tmp_path: Path) -> None:
    """The protected campaign with other numbers of faults and strata, in another order, its words told in another order."""

    def renumbered(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(fault_id=frame["fault_id"].max() - frame["fault_id"], stratum=frame["stratum"] + 1_000)

    other = changed(campaigns.protected, tmp_path / "other", renumbered, renumbered)
    points = other / "faults.points.parquet"
    last = _last_words(points)
    rewritten(points, lambda frame: _backwards(frame, int(results(campaigns.protected)["fault_id"].max())))
    for name, hashed in (("results.parquet", "execute"), ("faults.parquet", "plan")):
        rewritten(other / name, lambda frame: _last_word_first(frame, last, int(frame["fault_id"].max())))
        _sign(other, hashed, name)
    expected, renumbered_too = (
        compare_protected(campaigns.plain, side).to_json() for side in (campaigns.protected, other)
    )
    for part in ("pairing", "groups", "affected", "needless"):
        assert renumbered_too[part] == expected[part]


def _last_words(points: Path) -> pd.DataFrame:
    return pd.read_parquet(points).groupby("fault_id").last()


def _backwards(frame: pd.DataFrame, highest: int) -> pd.DataFrame:
    frame = frame.assign(
        fault_id=highest - frame["fault_id"], point=frame.groupby("fault_id")["point"].transform("max") - frame["point"]
    )
    return frame.sort_values(["fault_id", "point"]).reset_index(drop=True)


def _last_word_first(frame: pd.DataFrame, last: pd.DataFrame, highest: int) -> pd.DataFrame:
    several = frame["points"] > 1
    words = last.loc[highest - frame.loc[several, "fault_id"]]
    for name in ("index", "and_mask", "or_mask", "xor_mask"):
        frame.loc[several, name] = words[name].to_numpy()
    return frame


def _sign(folder: Path, stage: str, name: str) -> None:
    from testbed.core.folder.files import sha256_file
    from testbed.core.folder.manifest import checksummed

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"][stage]["outputs"][name] = sha256_file(folder / name)
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))


def test_what_does_not_pair_is_counted_by_kind(campaigns: Any, tmp_path: Path) -> None:
    """Without the protected campaign's faults in heads, and with two images less of every weight fault."""
    images = sorted(results(campaigns.plain)["image_id"].unique())[:2]

    def fewer(frame: pd.DataFrame) -> pd.DataFrame:
        gone = (frame["where"] == "weight") & frame["image_id"].isin(images)
        return frame[(frame["site"] != "head") & ~gone].reset_index(drop=True)

    compared = compare_protected(campaigns.plain, changed(campaigns.protected, tmp_path / "fewer", fewer))
    plain = results(campaigns.plain)
    lost = plain[(plain.site == "head") | ((plain["where"] == "weight") & plain.image_id.isin(images))]
    assert {(entry.side, entry.kind): entry.rows for entry in compared.pairing.unmatched} == {
        ("plain", kind): rows for kind, rows in lost.kind.astype(str).value_counts().items()
    }
    assert compared.pairing.rows == len(plain) - len(lost)
    other = compare_protected(changed(campaigns.plain, tmp_path / "plain", fewer), campaigns.protected)
    assert {entry.side for entry in other.pairing.unmatched} == {"protected"}
    assert sum(entry.rows for entry in other.pairing.unmatched) == len(lost)


def set_engine(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["spec"]["engine"][key] = value
        for section in manifest["spec"]["faults"]:
            section["bits"] = [3]  # that every format has

    return change


def other_weights(manifest: dict[str, Any]) -> None:
    manifest["stages"]["train"]["outputs"]["model.safetensors"] = "0" * 64


def other_tolerance(manifest: dict[str, Any]) -> None:
    manifest["spec"]["tolerance"] |= {"atol": 0.5}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_engine("backend", "openvino"), "engine.backend differs: ort-cpu in .* openvino in"),
        (set_engine("precision", "fp16"), "engine.precision differs: fp32 in .* fp16 in"),
        (other_tolerance, "tolerance.atol differs"),
        (other_weights, "campaigns of two trained models"),
    ],
)
def test_what_is_not_comparable_is_refused(
    change: Callable[[dict[str, Any]], None], says: str, campaigns: Any, tmp_path: Path
) -> None:
    other = changed(campaigns.protected, tmp_path / "other", manifest=change)
    with pytest.raises(UsageError, match=says):
        compare_protected(campaigns.plain, other)


def test_each_side_is_what_its_place_says(campaigns: Any) -> None:
    plain, protected = campaigns
    with pytest.raises(UsageError, match="name the plain one first"):
        compare_protected(protected, plain)
    with pytest.raises(UsageError, match="is not protected; protect it with `testbed protect`"):
        compare_protected(plain, plain)
    with pytest.raises(UsageError, match="name a campaign of the plain model first"):
        compare_protected(protected, protected)


def test_no_common_fault_and_other_images_are_refused(campaigns: Any, tmp_path: Path) -> None:
    apart = changed(
        campaigns.protected,
        tmp_path / "apart",
        lambda frame: frame.assign(xor_mask=frame["xor_mask"].to_numpy() ^ 1, points=1),
    )
    with pytest.raises(UsageError, match="have no fault and image in common; run one spec"):
        compare_protected(campaigns.plain, apart)
    unfinished = shutil.copytree(campaigns.protected, tmp_path / "unfinished")
    (unfinished / "results.parquet").unlink()
    with pytest.raises(StaleArtefact, match=r"results\.parquet"):
        compare_protected(campaigns.plain, unfinished)


def test_the_command_prints_and_writes_all_of_it(campaigns: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [*map(str, campaigns), "--to", str(tmp_path / "to"), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "to/comparison.json").read_text())
    groups = pd.read_csv(tmp_path / "to/groups.csv")
    assert len(groups) == len(printed["groups"])
    assert groups["sdc1.before.rate"].tolist() == pytest.approx(
        [group["sdc1"]["before"]["rate"] for group in printed["groups"]]
    )
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        *("comparison.json", "groups.csv", "affected.csv", "checkers.csv", "new-sdc.csv"),
        *("removed-sdc1.svg", "removed-outside.svg"),
    }
    assert (tmp_path / "to/removed-sdc1.svg").read_text().lstrip().startswith("<?xml")
    text = CliRunner().invoke(command, [*map(str, campaigns), "--by", "tier"]).stdout
    for part in (
        "SDC-1 before and after",
        "what became of outputs",
        "faults in what protection itself added",
        "without a fault",
        "by margin: [0, 1] 1 of 60 (at most 8 %), wrong 0 of 30",
    ):
        assert part in text


@pytest.mark.parametrize("policy", ["rerun", "reload"])
def test_second_runs_are_counted_and_timed(policy: str, campaigns: Any, tmp_path: Path) -> None:
    """A fault of one inference is gone in the second run; one in a weight only where the weights are restored."""
    values = spec_values(campaigns.protected.parent / "vit-protected", faults=sections())
    run_here(parse_spec(values | {"protection": {"on_detected": policy}}), tmp_path / "again")
    compared = compare_protected(campaigns.plain, tmp_path / "again")
    gates = json.loads((tmp_path / "again/manifest.json").read_text())["stages"]["gates"]["facts"]
    each = gates["alarms"]["second_run_seconds"]
    assert (compared.on_detected, compared.seconds_per_alarm) == (policy, each)
    with Run(campaigns.plain) as plain:
        weights = plain.results
    rows = pd.read_parquet(tmp_path / "again/results.parquet")
    keys = ["target", "where", "op", "pattern", "site", "index", "and_mask", "or_mask", "xor_mask", "image_id"]
    partners = rows.drop(columns="weight", errors="ignore").drop_duplicates(keys)
    pairs = weights[[*keys, "weight"]].merge(partners, on=keys)
    seen = set()
    for entry in compared.second_runs:
        if entry.by != "all":
            continue
        is_burst = pairs["pattern"].astype(str).str.startswith("burst")
        own = pairs[(pairs["where"] == entry.where) & (is_burst == ("burst" in entry.op))]
        alarms = own[own["detected"]]
        seen.add((entry.where, entry.scope))
        assert (entry.rows, entry.alarms) == (len(own), len(alarms))
        assert entry.run_twice.rate == pytest.approx(np.average(own["detected"], weights=own["weight"]))
        outside = own["detected"] & (own["mismatches"] > 0)
        assert entry.run_twice_rightly.rate == pytest.approx(np.average(outside, weights=own["weight"]))
        needless = own["detected"] & (own["mismatches"] == 0)
        assert entry.run_twice_needlessly.rate == pytest.approx(np.average(needless, weights=own["weight"]))
        assert entry.seconds.mean == pytest.approx(each * entry.run_twice.rate)
        assert entry.seconds.low <= entry.seconds.mean <= entry.seconds.high
        if not len(alarms):
            assert entry.recovered is None
            continue
        came_back = 1.0 if entry.where == "activation" or policy == "reload" else 0.0
        assert entry.recovered is not None
        assert entry.recovered.rate == pytest.approx(came_back)
        assert entry.recovered.rows == came_back * len(alarms)
        assert entry.recovered.low_99 <= entry.recovered.low_95 <= entry.recovered.rate
    assert seen == {("activation", "inference"), ("weight", "persistent")}
    (false, *_) = compared.false_alarms
    assert false.seconds_bound_95 == pytest.approx(false.bound_95 * each)
    done = CliRunner().invoke(command, [str(campaigns.plain), str(tmp_path / "again"), "--to", str(tmp_path / "to")])
    assert "second runs after alarms, the weights" in done.stdout
    assert len(pd.read_csv(tmp_path / "to/second-runs.csv")) == len(compared.second_runs)


def test_nothing_is_told_of_second_runs_where_there_were_none(campaigns: Any) -> None:
    compared = compare_protected(*campaigns)
    assert (compared.on_detected, compared.seconds_per_alarm, compared.second_runs) == ("none", None, [])
