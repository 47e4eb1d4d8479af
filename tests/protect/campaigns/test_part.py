"""A campaign with a [protect] table: the plain one, the protected one on the same faults, and what that bought."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest

from testbed.campaign.files import RESULTS
from testbed.campaign.image_facts import ImageFacts
from testbed.campaign.results.reader import RESULT_TABLE
from testbed.campaign.results.snapshot import Snapshot
from testbed.campaign.results.status import campaign_status
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.places import PROTECTED_CAMPAIGN
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.json_types import json_ready
from testbed.engines.torch.operators import OPERATORS
from testbed.protect.campaigns import part
from testbed.protect.campaigns.requested import protect_request
from testbed.protect.paired.compare import compare_protected
from testbed.protect.run import ProtectRequest, protect_run
from tests.support.campaigns import run_here
from tests.support.protect_table import CHECKED, run_table, table_spec, table_values

ROWS = ("results.parquet", "protected/campaign/results.parquet")
OUTPUTS = (*ROWS, "comparison/groups.csv", "comparison/affected.csv", "comparison/checkers.csv")


def contents(folder: Path) -> dict[str, bytes]:
    return {file: (folder / file).read_bytes() for file in OUTPUTS}


def test_the_plain_campaign_is_that_of_a_spec_without_the_table(protected_campaign: Path, tmp_path: Path) -> None:
    run_here(table_spec(None), tmp_path / "plain")
    assert (tmp_path / "plain" / ROWS[0]).read_bytes() == (protected_campaign / ROWS[0]).read_bytes()
    own, plain = (
        json.loads((folder / "manifest.json").read_text()) for folder in (protected_campaign, tmp_path / "plain")
    )
    assert own["identity"] == plain["identity"]
    assert "protect" not in plain["spec"]
    assert not (tmp_path / "plain/protect.json").exists()
    summaries = [
        json.loads((folder / "summary.json").read_text()) for folder in (protected_campaign, tmp_path / "plain")
    ]
    assert summaries[0].keys() == summaries[1].keys()
    for key in summaries[0]:
        if key.endswith(("seconds", "per_second", "timing", "efficiency")):
            continue
        assert summaries[0][key] == summaries[1][key], key


def test_it_is_what_its_three_commands_give(protected_campaign: Path, tmp_path: Path) -> None:
    """Protected, run and compared one by one, from the finished plain campaign."""
    spec = table_spec()
    request = protect_request(spec)
    assert request == ProtectRequest(request.passes, ("fp32",), ("ort-cpu",), 32, "train", 100)
    protect_run(protected_campaign, tmp_path / "model", request)
    by_hand = table_values(None, model={"run": str(tmp_path / "model")})
    del by_hand["data"]
    run_here(parse_spec(by_hand), tmp_path / "campaign")
    rows, again = (
        pd.read_parquet(file) for file in (protected_campaign / ROWS[1], tmp_path / "campaign/results.parquet")
    )
    pd.testing.assert_frame_equal(rows, again)
    compared = json_ready(compare_protected(protected_campaign, tmp_path / "campaign").to_json())
    stored = json.loads((protected_campaign / "comparison/comparison.json").read_text())
    assert stored["pairing"]["rows"] == len(pd.read_parquet(protected_campaign / ROWS[0]))
    for record in (stored, compared):
        record["protected"].pop("folder")
        record["protected"].pop("name")
        record["false_alarms"] = [alarms for alarms in record["false_alarms"] if alarms["source"] == "campaign"]
    assert stored == compared


def interrupt_at(stage: str, units: int, times: int) -> Callable[[Snapshot], None]:
    """Ctrl-C when the stage has done so many units, the campaign's number `times` that runs it."""
    begun = [""]

    def show(snapshot: Snapshot) -> None:
        if snapshot.stage != begun[-1]:
            begun.append(snapshot.stage)
        if begun.count(stage) == times and snapshot.stage == stage and snapshot.units_done >= units:
            raise KeyboardInterrupt

    return show


def stop(*_: Any, **__: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("moment", "is_in"),
    [("plain", "plain"), ("protecting", "protect"), ("protected", "protected"), ("comparing", "comparison")],
)
def test_it_goes_on_where_it_was_interrupted(
    moment: str, is_in: str, protected_campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, show = tmp_path / "run", interrupt_at("never", 0, 1)
    with monkeypatch.context() as patched:
        if moment == "protecting":
            patched.setattr("testbed.protect.run.write_model_run", stop)
        elif moment == "comparing":
            patched.setattr(part, "compare_protected", stop)
        else:
            show = interrupt_at("execute", 1, 1 if moment == "plain" else 2)
        with pytest.raises(KeyboardInterrupt):
            run_table(table_spec(), folder, show=show)
    status = campaign_status(folder)
    assert status.protected is not None
    assert (status.state, status.protected.part) == ("interrupted", is_in)
    stages = set(status.stages)
    run_table(table_spec(), folder, workers=2)
    assert contents(folder) == contents(protected_campaign)
    assert stages <= set(campaign_status(folder).stages)
    done = campaign_status(folder)
    assert done.protected is not None
    assert (done.state, done.protected.part) == ("finished", "done")


def test_a_finished_one_is_told_again(protected_copy: Path) -> None:
    before = {file: (protected_copy / file).stat().st_mtime_ns for file in OUTPUTS}
    done = run_table(table_spec(), protected_copy)
    assert {file: (protected_copy / file).stat().st_mtime_ns for file in OUTPUTS} == before
    assert done.comparison is not None
    stored = json.loads((protected_copy / "comparison/comparison.json").read_text())
    assert json_ready(done.comparison.to_json()) == stored


def test_a_table_may_come_to_a_finished_campaign(protected_campaign: Path, tmp_path: Path) -> None:
    run_table(table_spec(None), tmp_path / "run")
    assert campaign_status(tmp_path / "run").protected is None
    run_table(table_spec(), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(protected_campaign)


def test_another_protection_is_refused_once_faults_were_run(protected_copy: Path) -> None:
    other = table_spec({**CHECKED, "margin": 2.0})
    kept = contents(protected_copy)
    with pytest.raises(UsageError, match=r"protect\.margin: 1\.3 -> 2\.0.*--redo protect"):
        run_table(other, protected_copy)
    assert contents(protected_copy) == kept
    run_table(other, protected_copy, redo="protect")
    changed = contents(protected_copy)
    assert changed[ROWS[0]] == kept[ROWS[0]]
    assert changed[ROWS[1]] != kept[ROWS[1]]


def test_another_protection_is_taken_as_long_as_no_fault_was_run(
    protected_campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = table_spec({**CHECKED, "margin": 2.0})
    with monkeypatch.context() as patched:
        patched.setattr("testbed.campaign.pipeline.write_plan", _second_plan())
        with pytest.raises(KeyboardInterrupt):
            run_table(other, tmp_path / "run")
    run_table(table_spec(), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(protected_campaign)


def _second_plan() -> Callable[..., int]:
    from testbed.campaign.plan.table import write_plan

    plans: list[Any] = []

    def write(*arguments: Any) -> int:
        plans.append(arguments)
        return write_plan(*arguments) if len(plans) == 1 else stop()

    return write


def test_starting_over_gives_up_both(protected_copy: Path) -> None:
    fewer = table_spec(None, seed=7)
    (protected_copy / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="--fresh"):
        run_table(fewer, protected_copy)
    run_table(fewer, protected_copy, fresh=True)
    for part_of in ("protected", "comparison", "protect.json"):
        assert not (protected_copy / part_of).exists()
    assert (protected_copy / "notes.txt").read_text() == "mine"


def test_damage_is_told_with_the_stage_to_make_again(protected_copy: Path, protected_campaign: Path) -> None:
    file = protected_copy / ROWS[1]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StaleArtefact, match=r"--run \S+/copy --redo protected\.execute"):
        run_table(table_spec(), protected_copy)
    run_table(table_spec(), protected_copy, redo="protected.execute")
    assert contents(protected_copy) == contents(protected_campaign)


def test_second_runs_follow_alarms_of_the_protected_model_alone(protected_campaign: Path, tmp_path: Path) -> None:
    run_table(table_spec(protection={"on_detected": "reload"}), tmp_path / "run")
    plain, rows = (pd.read_parquet(tmp_path / "run" / file) for file in ROWS)
    assert plain["recovered"].isna().all()
    assert (rows["recovered"].notna() == rows["detected"]).all()
    assert rows["detected"].any()
    assert (tmp_path / "run" / ROWS[0]).read_bytes() == (protected_campaign / ROWS[0]).read_bytes()


def test_the_folder_may_be_moved_when_it_is_finished(protected_copy: Path, tmp_path: Path) -> None:
    moved = protected_copy.rename(tmp_path / "elsewhere")
    before = contents(moved)
    run_table(table_spec(), moved)
    assert contents(moved) == before


ON_TORCH: dict[str, Any] = {
    "engine": {"backend": "torch", "batch": 16},
    "faults": [{"target": "model", "where": "weight", "bits": [30]}],
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "attention": (
        {"faults": [{"target": "attention", "where": "activation", "bits": [30]}]},
        r"faults\[0\]\.target: 'attention' is a part of the model, and \[protect\] protects the whole",
    ),
    "no alarms": (
        {"protect": {"with": ["range"]}, "protection": {"on_detected": "rerun"}},
        r"protection\.on_detected: 'rerun' says what follows an alarm, and no pass of protect\.with raises any",
    ),
    "guesses": (
        {"stop": {"margin": 0.1, "proxy": "magnitude"}, "faults": [{"target": "model", "where": "weight"}]},
        r"stop\.proxy: guesses are of the plain model",
    ),
    "a site": ({"protect": {"with": ["range"], "where": ["*.nowhere"]}}, r"^protect: .*nowhere"),
    "data": (
        {"protect": {"with": ["range"], "calibration_data": "nope"}},
        r"^protect\.calibration_data: unknown data set",
    ),
    "a score": (
        {"protect": {"with": ["range"], "by": "mesured", "budget": 5}},
        r"^protect: unknown score 'mesured'; did you mean 'measured'\?",
    ),
    "a budget alone": ({"protect": {"with": ["range"], "budget": 5}}, r"protect\.by: goes with the other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_protected_is_refused_before_anything_is_run(name: str, tmp_path: Path) -> None:
    changes, says = REFUSED[name]
    with pytest.raises(UsageError, match=says):
        run_table(parse_spec(table_values(**changes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_engine_that_lacks_an_operator_is_refused_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(OPERATORS, "ReduceMin")
    spec = parse_spec(table_values(**ON_TORCH))
    with pytest.raises(
        UsageError, match=r"does not run on this engine: torch has no ONNX operator ai\.onnx\.ReduceMin"
    ):
        run_table(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_campaign_on_torch_is_run_protected(tmp_path: Path) -> None:
    comparison = run_table(parse_spec(table_values(**ON_TORCH)), tmp_path / "run").comparison
    assert comparison is not None
    assert comparison.pairing.rows > 0


def test_a_protected_model_is_not_protected_again(protected_campaign: Path, tmp_path: Path) -> None:
    model = protected_campaign / "protected/model"
    spec = table_spec(model={"run": str(model)}, data=None)
    with pytest.raises(UsageError, match=r"protected/model is protected already; name the model that it was made from"):
        run_table(spec, tmp_path / "run")
    file = {"onnx": str(model / "protected/model.fp32.onnx"), "training": {"seed": 42}}
    with pytest.raises(UsageError, match=r"model\.fp32\.onnx is protected already"):
        run_table(table_spec(model=file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_of_others_is_protected_too(protected_campaign: Path, tmp_path: Path) -> None:
    (tmp_path / "vit.onnx").write_bytes((protected_campaign / "model.onnx").read_bytes())
    spec = table_spec(model={"onnx": str(tmp_path / "vit.onnx"), "training": {"seed": 42}})
    done = run_table(spec, tmp_path / "run")
    assert done.comparison is not None
    assert done.comparison.passes == ["range", "checksum"]
    assert done.comparison.pairing.rows > 50
    changed = run_table(spec, tmp_path / "run")
    assert changed.comparison == done.comparison


def test_a_trained_model_keeps_the_data_that_it_is_for(protected_campaign: Path, tmp_path: Path) -> None:
    """A split of another seed than the campaign's: images that the model was not trained on stay such."""
    values = table_values(seed=5)
    values["model"]["training"]["seed"] = 42
    run_table(parse_spec(values), tmp_path / "run")
    splits = [
        json.loads((folder / "manifest.json").read_text())["stages"]["golden"]["inputs"]["test"]
        for folder in (protected_campaign, tmp_path / "run", tmp_path / "run/protected/campaign")
    ]
    assert len(set(splits)) == 1


def test_an_adaptive_campaign_pairs_what_both_drew(tmp_path: Path) -> None:
    spec: CampaignSpec = table_spec(
        faults=[{"target": "model", "where": "activation", "sites": ["*.mlp.fc1"], "bits": [12, 30], "ops": ["flip"]}],
        stop={"margin": 0.04, "per": "all", "max_rounds": 3},
    )
    done = run_table(spec, tmp_path / "run")
    assert done.comparison is not None
    assert done.comparison.pairing.faults > 10


def test_the_protected_campaign_has_the_images_that_the_plain_ones_pilot_chose(tmp_path: Path) -> None:
    """Every fault on the same images in both, and none is looked for anew when it goes on."""
    values = table_values()
    values["faults"] = [values["faults"][1] | {"sites": ["head.*", "*.fc1.weight"], "images": "auto"}]
    spec = parse_spec(values)
    done = run_table(spec, tmp_path / "run")
    images = [
        RESULT_TABLE.read(folder / RESULTS, ["fault_id", "image_id"])
        .to_pandas()
        .groupby("fault_id")["image_id"]
        .nunique()
        for folder in (tmp_path / "run", tmp_path / "run" / PROTECTED_CAMPAIGN)
    ]
    plain = RunFolder.existing(tmp_path / "run")
    (chosen,) = facts_of(plain, "images", ImageFacts).chosen
    assert all(set(number) == {chosen.images} for number in images)
    assert "images" not in RunFolder.existing(tmp_path / "run" / PROTECTED_CAMPAIGN).stages
    assert done.comparison is not None
    assert not [lone for lone in done.comparison.pairing.unmatched if lone.side == "plain"]
    before = (tmp_path / "run" / PROTECTED_CAMPAIGN / RESULTS).stat().st_mtime_ns
    run_table(spec, tmp_path / "run")
    assert (tmp_path / "run" / PROTECTED_CAMPAIGN / RESULTS).stat().st_mtime_ns == before
