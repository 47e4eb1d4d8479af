"""A draw of faults and images has one seed, the model another if it is given one; exposure may change when all is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.record import Summary
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.runfolder import RunFolder

RunSpec = Callable[..., Summary]


def outputs(folder: Path, stage: str) -> dict[str, str]:
    found: dict[str, str] = RunFolder.existing(folder).manifest["stages"][stage]["outputs"]
    return found


def test_a_new_draw_of_the_same_model(
    tiny_values: dict[str, Any], tiny_run: Path, tmp_path: Path, run_spec: RunSpec
) -> None:
    tiny_values["faults"] = [tiny_values["faults"][0] | {"sites": ["head"], "per_stratum": 2}]
    tiny_values["model"]["training"]["seed"] = tiny_values["seed"]  # what it was without
    run_spec(parse_spec(tiny_values | {"seed": 7}), tmp_path / "again")
    assert outputs(tmp_path / "again", "train") == outputs(tiny_run, "train")
    again, before = (pq.read_table(run / "faults.parquet").to_pylist() for run in (tmp_path / "again", tiny_run))

    def faulty(faults: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
        return {(fault["index"], fault["image_id"]) for fault in faults if fault["site"] == "head"}

    assert faulty(again) != faulty(before)


def test_without_one_of_its_own_the_model_follows_the_campaigns(tiny_values: dict[str, Any]) -> None:
    plain = parse_spec(tiny_values)
    assert plain.training_seed == plain.seed
    assert "seed" not in plain.identity()["model"]["training"]  # the identity of a campaign that was begun before
    tiny_values["model"]["training"]["seed"] = 3
    stated = parse_spec(tiny_values)
    assert (stated.training_seed, stated.seed) == (3, plain.seed)
    assert stated.model.recipe_changes == plain.model.training
    assert parse_spec(stated.identity()) == stated


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "three"])
def test_a_seed_that_cannot_be(tiny_values: dict[str, Any], seed: Any) -> None:
    tiny_values["model"]["training"]["seed"] = seed
    with pytest.raises(UsageError, match=r"model\.training\.seed: .* is not a whole number from 0 to 4294967295"):
        parse_spec(tiny_values)


def test_another_exposure_of_finished_rows_needs_no_word(
    tiny_values: dict[str, Any], tiny_copy: Path, run_spec: RunSpec
) -> None:
    """Somebody weighs them anew, and then the first spec is asked for again."""
    first = parse_spec(tiny_values)
    before = run_spec(first, tiny_copy)
    rows = (tiny_copy / "results.parquet").read_bytes()
    exposed = run_spec(parse_spec(tiny_values | {"exposure": {"sites": {"*": 2.0}}}), tiny_copy)
    assert exposed.exposure is not None
    assert (before.exposure, exposed.exposure.weights) == (None, {"*": 2.0})
    assert run_spec(first, tiny_copy).exposure is None
    assert (tiny_copy / "results.parquet").read_bytes() == rows
    (tiny_copy / "summary.json").write_text("{}")
    with pytest.raises(StaleArtefact, match=r"summary\.json was edited"):
        run_spec(first, tiny_copy)
