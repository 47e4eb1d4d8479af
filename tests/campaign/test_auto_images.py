"""`images = "auto"`: a pilot decides, what it decided is kept, and its rows count nowhere."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.campaign import pipeline
from testbed.campaign.facts import ExecuteFacts
from testbed.campaign.image_facts import ChosenImages
from testbed.campaign.plan.table import planned, read_plan
from testbed.campaign.preview.plan import Preview, Wanted
from testbed.campaign.results.reader import RESULT_TABLE
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from tests.support.campaigns import run_here, tiny_values
from tests.support.once import made_once
from tests.support.victims import assert_same_rows


def values(images: Any = "auto") -> dict[str, Any]:
    """Weights of the tiny campaign and of its attention module, and an activation that lasts."""
    spec = tiny_values()
    lasting = spec["faults"][0] | {"scope": "persistent", "sites": ["head"], "ops": ["flip"], "per_stratum": 4}
    spec["faults"] = [section | {"images": images} for section in (spec["faults"][1], lasting, spec["faults"][3])]
    return spec


@pytest.fixture(scope="session")
def auto_run(shared_folder: Path, cache_dir: Path) -> Path:
    return made_once(shared_folder / "runs" / "auto-images", lambda path: run_here(parse_spec(values()), path))


def chosen_of(folder: Path) -> dict[tuple[str, str], ChosenImages]:
    facts = json.loads((folder / "manifest.json").read_text())["stages"]["images"]["facts"]
    return {(choice["target"], choice["where"]): ChosenImages(**choice) for choice in facts["chosen"]}


def test_the_pilot_says_how_many_and_why(auto_run: Path) -> None:
    chosen = chosen_of(auto_run)
    assert list(chosen) == [("model", "weight"), ("model", "activation"), ("attention", "weight")]
    weights = chosen["model", "weight"]
    assert 1 <= weights.images <= weights.of == 6
    assert weights.correlation is not None
    assert (weights.row_seconds or 0) > 0
    assert weights.pilot_faults >= weights.pilot_events >= 6
    assert weights.why.startswith("sqrt(c_fault / c_row x (1 - rho) / rho) = ")
    assert chosen["model", "activation"].images == 1
    rows = RESULT_TABLE.read(auto_run / "results.parquet").to_pandas()
    for (target, where), choice in chosen.items():
        of_place = rows[(rows["target"] == target) & (rows["where"] == where)]
        assert (of_place.groupby("fault_id")["image_id"].nunique() == choice.images).all()
    summary = json.loads((auto_run / "summary.json").read_text())
    assert [choice["images"] for choice in summary["images_each"]] == [choice.images for choice in chosen.values()]
    assert all(choice.sentence in summary["statement"] for choice in chosen.values())


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("fault", "row"), [(0.1, 0.01), (0.001, 0.02)])
def test_what_a_choice_saves_is_what_faults_of_beta_rates_say(rho: float, fault: float, row: float) -> None:
    """Variances of the mean of m correlated 0/1 images, drawn."""
    rng = np.random.default_rng(0)
    own = rng.random(200_000) < 0.5
    images = np.where(rng.random((200_000, 8)) < np.sqrt(rho), own[:, None], rng.random((200_000, 8)) < 0.5)
    cost = {m: images[:, :m].mean(1).var() * (fault + m * row) for m in (2, 8)}
    chosen = ChosenImages(
        target="model",
        where="weight",
        images=2,
        of=8,
        correlation=rho,
        fault_seconds=fault,
        row_seconds=row,
        why="",
    )
    assert chosen.saving == pytest.approx(cost[8] / cost[2], rel=0.03)
    assert f"all of them would take {chosen.saving:.2g} times as long" in chosen.sentence


def test_rows_of_the_pilot_count_nowhere(auto_run: Path) -> None:
    facts = facts_of(RunFolder.existing(auto_run), "execute", ExecuteFacts)
    plan = read_plan(auto_run / "faults.parquet")
    rows = RESULT_TABLE.read(auto_run / "results.parquet", ["fault_id"])
    assert facts.faults == len(plan) == len(np.unique(rows.column("fault_id").to_numpy()))
    assert facts.rows == len(rows)


def test_what_was_decided_is_kept_however_long_faults_take_later(
    auto_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(auto_run, tmp_path / "run"))
    folder = RunFolder.existing(run)
    folder.redo("gates", list(folder.manifest["stages"]))
    folder.save()
    monkeypatch.setattr(pipeline, "chosen_images", lambda *_: pytest.fail("decided again"))
    run_here(parse_spec(values()), run)
    assert_same_rows(run, auto_run)


def test_it_is_the_campaign_of_the_number_that_was_chosen(auto_run: Path, tmp_path: Path) -> None:
    fixed = copy.deepcopy(values())
    for section, choice in zip(fixed["faults"], chosen_of(auto_run).values(), strict=True):
        section["images"] = choice.images
    run_here(parse_spec(fixed), tmp_path / "run")
    assert_same_rows(tmp_path / "run", auto_run)


def test_pilots_of_one_seed_see_the_same(auto_run: Path, tmp_path: Path) -> None:
    run_here(parse_spec(values()), tmp_path / "run")
    again, first = chosen_of(tmp_path / "run"), chosen_of(auto_run)
    for place, choice in first.items():
        for name in ("correlation", "pilot_faults", "pilot_events"):
            assert getattr(again[place], name) == getattr(choice, name)


def test_few_events_give_a_careful_default(cache_dir: Path, tmp_path: Path) -> None:
    spec = tiny_values()
    spec["faults"] = [spec["faults"][1] | {"images": "auto", "bits": [0], "ops": ["flip"]}]
    run_here(parse_spec(spec), tmp_path / "run")
    (choice,) = chosen_of(tmp_path / "run").values()
    assert (choice.images, choice.correlation) == (4, None)
    assert choice.why.endswith("a careful default")


def test_a_relative_margin_makes_it_the_usual_choice(tiny_values: dict[str, Any]) -> None:
    del tiny_values["faults"][2:]
    for section in tiny_values["faults"]:
        del section["per_stratum"]
    stop = {"margin": 0.05, "per": "all"}
    absolute, relative = (parse_spec(tiny_values | {"stop": more}) for more in (stop, stop | {"relative": 0.2}))
    assert absolute.auto_places == ()
    assert relative.auto_places == (("model", "weight"),)
    tiny_values["faults"][1]["images"] = "all"
    every = parse_spec(tiny_values | {"stop": stop | {"relative": 0.2}})
    assert every.auto_places == ()
    assert parse_spec(every.identity()) == every  # "all" is told, as it is not what holds without
    tiny_values["faults"][1]["images"] = "auto"
    assert parse_spec(tiny_values | {"stop": stop | {"relative": 0.2}}).identity() == relative.identity()
    assert parse_spec(tiny_values | {"stop": stop}).identity() != absolute.identity()


def test_nothing_is_planned_before_it_is_decided() -> None:
    spec = parse_spec(values())
    with pytest.raises(ValueError, match="no pilot has decided"):
        planned(spec, {}, [])
    with pytest.raises(ValueError, match="is not decided yet"):
        spec.images_each("model", "weight")
    decided = spec.with_images(dict.fromkeys(spec.auto_places, 3))
    assert decided.images_each("model", "weight") == 3
    assert decided.auto_places == ()


def test_a_preview_says_what_it_assumes() -> None:
    preview = Preview(parse_spec(values()), Wanted(0.1, 0.95))
    head = preview.head()
    assert {(each.where, each.images, each.auto) for each in head.images_each} == {
        ("weight", 4, True),
        ("activation", 4, True),
    }
    totals = preview.all_totals()
    assert totals.drawn.rows == 4 * totals.drawn.faults
    assert "images_each" not in Preview(parse_spec(values("all")), Wanted(0.1, 0.95)).head().to_json()


def test_it_is_refused_for_faults_of_one_inference(tiny_values: dict[str, Any]) -> None:
    tiny_values["faults"][0]["images"] = "auto"
    with pytest.raises(UsageError, match=r"faults\[0\]\.images: a fault of one inference has the one image"):
        parse_spec(tiny_values)
