"""``testbed prune`` and ``testbed rank`` on a small trained model and its campaign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from testbed.bench.counts import mac_count, parameter_count
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run
from testbed.sensitivity.rank.catalogue import FACTS, METHODS, PRUNE_METHODS
from tests.support.commands import answer, invoke, last_error_of
from tests.support.small_runs import train_small_vit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    return train_small_vit(tmp_path_factory.mktemp("runs") / "vit")


FEW = ("--images", "40", "--chunks", "3")


def test_a_pruned_run_is_a_run_like_any_other(trained: Path, tmp_path: Path) -> None:
    told = answer("prune", trained, "--method", "eap", "--keep", ".5", "--to", tmp_path / "half", *FEW)
    pruned, original = open_model_run(tmp_path / "half").model, open_model_run(trained).model
    assert told["parameters"] == parameter_count(pruned) < parameter_count(original) == told["parameters_before"]
    assert told["macs"] == mac_count(pruned.config) < told["macs_before"]
    assert sum(map(len, told["kept"]["heads"])) == sum(pruned.config.heads)
    assert told["largest_difference_to_masked"] <= 1e-5
    golden = answer("golden", tmp_path / "half")
    assert golden["accuracy"] == pytest.approx(told["accuracy"])
    found = answer("export", tmp_path / "half")
    assert found["parity"][-1]["max_abs_diff"] < 1e-4
    rows = answer("bench", tmp_path / "half", trained, "--baseline", trained, "--runs", 20, "--batch", 4)["rows"]
    assert [row["macs"] for row in rows] == [told["macs"], told["macs_before"]]


@pytest.mark.parametrize("method", [method for method in PRUNE_METHODS if method != "acdc"])
def test_the_lowest_scores_are_cut(trained: Path, tmp_path: Path, method: str) -> None:
    ranked = [answer("rank", trained, "--by", method, "--of", kind, *FEW)["scores"] for kind in ("head", "chunk")]
    scores = {entry["component"]: entry["score"] for entry in [*ranked[0], *ranked[1]]}
    cut = answer("prune", trained, "--method", method, "--keep", ".6", "--to", tmp_path / "cut", *FEW)["kept"]
    kept = {f"block.{block}.head.{head}" for block, heads in enumerate(cut["heads"]) for head in heads}
    for block, neurons in enumerate(cut["neurons"]):
        runs = [range(int(run.split("-")[0]), int(run.split("-")[1]) + 1) for run in neurons.split(",") if run]
        kept |= {f"block.{block}.mlp.chunk.{neuron // 8}" for run in runs for neuron in run}
    assert len(kept) == 9
    assert max(scores[name] for name in scores.keys() - kept) <= min(scores[name] for name in kept)


def test_a_sweep_writes_a_run_per_amount(trained: Path, tmp_path: Path) -> None:
    told = answer("prune", trained, "--method", "acdc", "--tau", ".001,.02,.1", "--to", tmp_path / "sweep", *FEW)[
        "runs"
    ]
    assert [Path(one["run"]).name for one in told] == ["acdc-tau0.001", "acdc-tau0.02", "acdc-tau0.1"]
    sizes = [one["parameters"] for one in told]
    assert sizes == sorted(sizes, reverse=True)
    for one in told:
        assert parameter_count(open_model_run(Path(one["run"])).model) == one["parameters"]


def test_fine_tuning_starts_from_what_is_left(trained: Path, tmp_path: Path) -> None:
    base = ("prune", trained, "--method", "eap", "--keep", ".4", *FEW)
    cut = answer(*base, "--to", tmp_path / "cut")
    tuned = answer(*base, "--to", tmp_path / "tuned", "--finetune", 2)
    assert tuned["accuracy_before_finetuning"] == cut["accuracy"]
    assert tuned["finetuned_epochs"] == 2
    one, other = (open_model_run(tmp_path / name).model for name in ("cut", "tuned"))
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert 0 < moved < 0.2  # gently
    assert one.config == other.config


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["--method", "acdc", "--keep", ".5"], "takes --tau, and only that", 2),
        (["--method", "eap", "--keep", "0"], "above 0 and at most 1, not 0", 2),
        (["--method", "eap", "--keep", "1.5"], "above 0 and at most 1", 2),
        (["--method", "acdc", "--tau", "-1"], "must be above 0", 2),
        (["--method", "acdc", "--tau", "1e9"], "would prune everything away", 2),
        (["--method", "eap", "--keep", ".5", "--components", "layers"], "unknown kind of component", 2),
        (["--method", "eap", "--keep", ".5", "--images", "3"], "ask for one per class", 2),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    trained: Path, tmp_path: Path, arguments: list[str], told: str, code: int
) -> None:
    assert told in last_error_of(invoke("prune", trained, "--to", tmp_path / "new", *arguments), code)
    assert not (tmp_path / "new").exists()


def test_the_model_itself_is_never_overwritten(trained: Path) -> None:
    told = last_error_of(invoke("prune", trained, "--method", "eap", "--keep", ".5", "--to", trained), 2)
    assert "name another folder" in told


# ---- ranking


@pytest.fixture(scope="module")
def campaign(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("campaigns") / "flips"
    spec = path.parent / "flips.toml"
    spec.write_text(
        f'name = "flips"\n[model]\nrun = "{trained}"\n[tiers]\nedges = [1.0]\nimages = [12]\n'
        '[engine]\nbatch = 16\n[gates]\nzero_fault_rows = 32\n[[faults]]\ntarget = "model"\nwhere = "activation"\n'
        'ops = ["flip"]\nbits = [23, 26, 29, 30]\nper_stratum = 3\n[[faults]]\ntarget = "model"\n'
        'where = "activation"\nscope = "persistent"\nops = ["flip"]\nbits = [30]\n'  # which no score is held against
    )
    result = invoke("campaign", "run", spec, "--run", path, "--workers", 0)
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.parametrize("by", [by for by in METHODS if "head" in FACTS[by].kinds])
@pytest.mark.parametrize("kind", ["block", "head"])
def test_every_score_names_each_component_once(trained: Path, by: str, kind: str) -> None:
    told = answer("rank", trained, "--by", by, "--of", kind, "--loss", "task", *FEW)
    assert (told["by"], told["kind"]) == (by, kind)
    assert len({one["component"] for one in told["scores"]}) == len(told["scores"]) == {"block": 3, "head": 6}[kind]
    assert all(np.isfinite(one["score"]) for one in told["scores"])
    assert told["settings"]["images"] == 40


def test_no_more_images_are_told_than_there_are(trained: Path) -> None:
    dataset = dataset_of(open_model_run(trained))
    many = ("rank", trained, "--images", 100_000)
    told = answer(*many, "--by", "eap", "--of", "head", "--loss", "task", "--chunks", 1)
    assert told["settings"]["images"] == (len(dataset.validation) or len(dataset.train))
    assert answer(*many, "--by", "fuzziness")["settings"]["images"] == len(dataset.test)


def test_analysis_images_of_another_data_set_give_the_scores_of_the_same_images(trained: Path, tmp_path: Path) -> None:
    dataset = dataset_of(open_model_run(trained))
    split = dataset.validation if len(dataset.validation) else dataset.train
    pixels = np.stack([split.pixels(number) for number in range(len(split))])
    np.savez(tmp_path / "more.npz", images=pixels, labels=split.labels, classes=np.array(dataset.classes))
    acdc = ("rank", trained, "--by", "acdc", "--of", "head", *FEW)
    told = answer(*acdc, "--data", f"npz:{tmp_path / 'more.npz'}")
    assert told["scores"] == answer(*acdc)["scores"]
    assert (told["settings"]["images"], told["settings"]["data"]) == (40, "npz:more.npz")
    test = dataset.test
    pixels = np.stack([test.pixels(number) for number in range(len(test))])
    names: dict[str, Any] = {"images": pixels, "labels": test.labels % 3, "classes": np.array(["a", "b", "c"])}
    np.savez(tmp_path / "other.npz", **names)
    assert "has other classes" in last_error_of(invoke(*acdc, "--data", f"npz:{tmp_path / 'other.npz'}"), 2)


def test_measured_rates_are_the_summarys(trained: Path, campaign: Path) -> None:
    told = answer("rank", trained, "--by", "measured", "--campaign", campaign)
    summary = json.loads((campaign / "summary.json").read_text())
    wanted = {
        f"block.{one['value']}": one["rates"]["sdc1"]["rate"]
        for one in summary["marginals"]
        if (one["by"], one["op"]) == ("block", "flip")
    }
    assert {one["component"]: one["score"] for one in told["scores"]} == pytest.approx(wanted, abs=1e-8)


def test_validation_holds_every_score_against_the_campaign(trained: Path, campaign: Path, tmp_path: Path) -> None:
    picture = tmp_path / "rank.png"
    told = answer("rank", trained, "--validate", campaign, "--of", "head", "--picture", picture, *FEW)
    methods = [by for by in METHODS if by != "fuzziness"]
    assert list(told["by"]) == methods
    assert "scores blocks, not each head" in told["left_out"]["fuzziness"]
    for found in told["by"].values():
        for name in ("spearman", "spearman_true", "kendall_true", "top_k_true"):
            assert {"value", "low", "high"} == set(found[name])
        assert found["verdict"].endswith(".")
        assert found["components"] == 6
        assert found["comparisons"] == len(methods)
        assert found["p_value"] <= found["p_adjusted"] <= 1
        assert f"corrected for {len(methods)} comparisons" in found["verdict"]
    p_values = [found["p_value"] for found in told["by"].values()]
    wanted = multipletests(p_values, method="holm")[1]
    assert [found["p_adjusted"] for found in told["by"].values()] == pytest.approx(wanted)
    assert [curve["by"] for curve in told["protection"]] == ["measured", *methods, "random"]
    areas = [curve["area"] for curve in told["protection"]]
    assert max(areas) == areas[0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    alone = invoke("rank", trained, "--validate", campaign, "--by", "eap", *FEW).stdout
    assert "area" in alone
    assert "as measured" in alone
    assert "comparisons" not in alone
    assert "comparisons" in invoke("rank", trained, "--validate", campaign, *FEW).stdout


def test_a_campaign_of_another_model_is_refused(trained: Path, campaign: Path, tmp_path: Path) -> None:
    assert invoke("prune", trained, "--method", "eap", "--keep", ".9", "--to", tmp_path / "new", *FEW).exit_code == 0
    told = last_error_of(invoke("rank", tmp_path / "new", "--validate", campaign), 2)
    assert "is of another model" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a score with --by"),
        (["--by", "eap", "--picture", "x.png"], "--picture needs --validate"),
        (["--by", "eap", "--loss", "kl"], "no gradient on clean images"),
        (["--by", "fuzziness", "--of", "head"], "scores blocks, not each head"),
        (["--by", "attention-distance", "--of", "chunk"], "scores heads and blocks, not each chunk"),
    ],
)
def test_mistakes_of_rank_are_told(trained: Path, arguments: list[str], told: str) -> None:
    assert told in last_error_of(invoke("rank", trained, *arguments, *FEW), 2)


# ---- the trade-off


def test_models_side_by_side_with_each_numbers_own_engine(trained: Path, campaign: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    answer("prune", trained, "--method", "eap", "--keep", ".4", "--to", half, *FEW)
    quick = ("--runs", 20, "--batch", "2", "--allowed-drop", 100)
    told = answer("tradeoff", trained, half, "--campaign", campaign, "--to", tmp_path / "page", *quick)
    full, small = told["entries"]
    assert full["quality"]["top1"] == pytest.approx(answer("golden", trained)["accuracy"])
    assert small["vulnerability"] is None
    summary = json.loads((campaign / "summary.json").read_text())
    assert full["vulnerability"]["engine_hash"] == summary["engine"]["hash"] != full["latency"][0]["engine_hash"]
    assert full["deployment_id"] == summary["engine"]["deployment_id"]
    assert full["vulnerability"]["drift_max_abs"] == summary["drift"]["max_abs_diff"]
    (all_flips,) = (m for m in summary["marginals"] if (m["by"], m["op"]) == ("all", "flip"))
    assert full["vulnerability"]["rate"] == all_flips["rates"]["sdc1"]["rate"]
    assert told["recommended"] == (
        str(half) if small["latency"][0]["p50_ms"] < full["latency"][0]["p50_ms"] else str(trained)
    )
    assert "the lowest median latency at batch 2" in told["why"]
    assert json.loads((tmp_path / "page" / "metrics.json").read_text())["entries"][0]["model"] == str(trained)
    page = (tmp_path / "page" / "tradeoff.html").read_text()
    for entry in (full, small):
        assert entry["latency"][0]["engine_hash"] in page
    assert full["vulnerability"]["engine_hash"] in page
    assert "://" not in page.replace("http://www.w3.org", "")  # pictures are in the page, and base64 may spell "http"


def test_a_campaign_of_none_of_the_models_is_refused(trained: Path, campaign: Path, tmp_path: Path) -> None:
    assert invoke("prune", trained, "--method", "eap", "--keep", ".9", "--to", tmp_path / "new", *FEW).exit_code == 0
    refused = invoke("tradeoff", tmp_path / "new", "--campaign", campaign, "--to", tmp_path / "page", "--runs", 5)
    assert "of none of these models" in last_error_of(refused, 2)
    assert "engine(s) in turns" not in refused.stderr  # nothing is timed for it
    assert not (tmp_path / "page").exists()


def test_a_campaign_of_another_precision_is_refused_before_anything_is_timed(
    trained: Path, campaign: Path, tmp_path: Path
) -> None:
    half = ("--precision", "fp16", "--runs", 5)
    refused = invoke("tradeoff", trained, "--campaign", campaign, "--to", tmp_path / "page", *half)
    assert "struck another file of" in last_error_of(refused, 2)
    assert "engine(s) in turns" not in refused.stderr


def test_a_protected_model_is_not_taken_for_the_plain_one(trained: Path, campaign: Path, tmp_path: Path) -> None:
    """Both have the same weights; what was deployed differs."""
    guarded = tmp_path / "guarded"
    few = ("--calibration-images", 16, "--images", 32)
    assert invoke("protect", trained, "--with", "range", "--to", guarded, *few).exit_code == 0
    both = invoke(
        "tradeoff", trained, guarded, "--campaign", campaign, "--to", tmp_path / "page", "--runs", 6, "--json"
    )
    assert both.exit_code == 0, both.stderr
    entries = {entry["model"]: entry["vulnerability"] for entry in json.loads(both.stdout)["entries"]}
    assert entries[str(trained)] is not None
    assert entries[str(guarded)] is None
    alone = invoke("tradeoff", guarded, "--campaign", campaign, "--to", tmp_path / "page2", "--runs", 6)
    assert "struck another file of" in last_error_of(alone, 2)
