"""Faults in the first attention module, followed to its output: against stored values, torch, and arithmetic by hand."""

from __future__ import annotations

import copy
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from testbed.campaign.facts import LinkFacts
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import EngineError, StaleArtefact, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.golden.arrays import read_array
from testbed.models.vit import taps
from testbed.models.weights import load_model
from testbed.sweep.link import measure_link
from testbed.sweep.linked import Followed, read_link
from testbed.sweep.run import SweepRequest, sweep_campaign
from tests.support.campaigns import TINY, run_here
from tests.support.progress import no_progress

OUTPUT = "block.0.attn.proj"
RTOLS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Faults inside the module of every scope and pattern, and some after it."""
    values = copy.deepcopy(tomllib.loads(TINY.read_text()))
    section = {"target": "model", "where": "activation", "ops": ["flip"]}
    values["faults"] = [
        {**section, "sites": ["block.0.attn.*", "head"], "bits": [0, 26, 30], "per_stratum": 12},
        {**section, "sites": ["block.0.attn.*"], "bits": [30], "pattern": "row", "per_stratum": 3},
        {**section, "sites": ["block.0.attn.*"], "bits": [30], "scope": "persistent", "per_stratum": 3},
    ]
    folder = tmp_path_factory.mktemp("link") / "run"
    run_here(parse_spec(values), folder)
    measured(folder)
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "own"))


def linked(folder: Path, asked: SweepRequest) -> dict[str, Any]:
    link = sweep_campaign(folder, asked, no_progress).link
    assert link is not None
    return link.to_json()


def measured(folder: Path, limit: int | None = None) -> LinkFacts:
    place = Workplace.at(folder)
    with place.folder.locked():
        facts = measure_link(place, limit, no_progress)
    place.close()
    return facts


def link_of(folder: Path) -> Followed:
    found = read_link(Workplace.at(folder), RTOLS)
    assert found is not None
    return found


def joined(folder: Path) -> pd.DataFrame:
    """The stored rows of the followed faults."""
    link = pq.read_table(folder / "link.parquet").to_pandas()
    rows = pq.read_table(folder / "results.parquet").to_pandas()
    return link.merge(rows, on=["fault_id", "image_id"], validate="one_to_one")


def test_every_fault_inside_is_followed_and_no_other(finished: Path) -> None:
    rows = pq.read_table(finished / "results.parquet").to_pandas()
    inside = rows.site.astype(str).str.startswith("block.0.attn.") & (rows.site != "block.0.attn.residual")
    assert set(joined(finished).site) == set(rows.site[inside])
    assert len(joined(finished)) == inside.sum()
    assert set(joined(finished)["scope"]) == {"inference", "persistent"}
    assert set(joined(finished).pattern) == {"single", "row"}


def test_a_fault_in_the_output_itself_moves_it_by_what_was_stored(finished: Path) -> None:
    rows = joined(finished)
    rows = rows[(rows.site == OUTPUT) & (rows.pattern == "single")]
    with np.errstate(invalid="ignore"):
        moved = np.abs(rows.faulty_value.astype(np.float64) - rows.golden_value)
    assert len(rows) > 50
    assert np.array_equal(rows.module_max_abs_diff, np.where(np.isfinite(moved), moved, np.inf))
    assert np.array_equal(rows.module_nonfinite, ~np.isfinite(rows.faulty_value))
    assert np.array_equal(rows.module_identical, rows.golden_word == rows.faulty_word)


@pytest.mark.parametrize("site", ["q", "v", "softmax", "context"])
def test_the_output_moves_as_torch_says(finished: Path, site: str) -> None:
    """The struck value is written into the original model; its module's output moves the same way."""
    model = load_model(finished / "model.safetensors").eval()
    tapped = taps(model)
    images = read_array(finished / "inputs" / "model.npy")
    ids = Workplace.at(finished).images.ids
    rows = joined(finished)
    rows = rows[(rows.site == f"block.0.attn.{site}") & (rows.pattern == "single") & (rows.bit >= 26)]
    rows = rows[np.isfinite(rows.module_max_abs_diff) & (rows.module_max_abs_diff < 1e6)].head(12)
    assert len(rows) > 5
    for row in rows.itertuples():
        seen: list[torch.Tensor] = []

        def inject(_module: Any, _inputs: Any, output: torch.Tensor, row: Any = row) -> torch.Tensor:
            faulty = output.clone(memory_format=torch.contiguous_format)
            faulty.reshape(-1)[row.index] = float(row.faulty_value)
            return faulty

        image = torch.from_numpy(np.array(images[[ids.index(row.image_id)]]))
        watch = tapped[OUTPUT].register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.clone()))
        with torch.inference_mode():
            model(image)
            handle = tapped[row.site].register_forward_hook(inject)
            model(image)
            handle.remove()
        watch.remove()
        moved = (seen[1] - seen[0]).abs().max().item()
        assert row.module_max_abs_diff == pytest.approx(moved, rel=1e-3, abs=2e-6)


def test_stored_logits_came_out_again(finished: Path) -> None:
    facts = json.loads((finished / "manifest.json").read_text())["stages"]["link"]["facts"]
    assert facts["checked"] == 256
    assert facts["evaluated"] == "prefix"
    assert facts["ended"] == 0
    assert facts["rows"] == len(joined(finished))


def test_other_logits_than_the_stored_ones_are_refused(own: Path) -> None:
    def other(table: pa.Table) -> pa.Array:
        lists = table.column("logits").combine_chunks()
        flipped = (pc.list_flatten(lists).to_numpy().view(np.uint32) ^ 1).view(np.float32)
        return pa.ListArray.from_arrays(lists.offsets, pa.array(flipped))

    rewrite(own, logits=other)
    with pytest.raises(EngineError, match="of 256 rows have other logits"):
        measured(own)
    assert not list(own.glob("*.unfinished*"))


def test_a_module_that_only_the_whole_engine_computes_alike_is_followed_in_it(
    own: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(own, label=unlabelled)  # another result, so that the stage is made again
    monkeypatch.setattr("testbed.sweep.link.LinkMeasurement.gives_same_bits", lambda *arguments: False)
    assert measured(own).evaluated == "whole"
    keys = ["fault_id", "image_id"]
    tables = [pq.read_table(folder / "link.parquet").to_pandas().sort_values(keys) for folder in (own, finished)]
    for column in ("module_max_abs_diff", "module_nonfinite", "module_identical"):
        assert np.array_equal(tables[0][column], tables[1][column])


def test_rows_that_ended_the_engine_are_not_run_again(own: Path) -> None:
    fault = int(joined(own).fault_id.iloc[0])

    def crashed(name: str, value: Any) -> Callable[[pa.Table], pa.Array]:
        def change(table: pa.Table) -> pa.Array:
            column = table.column(name).combine_chunks()
            column = column.cast(pa.string()) if value else column
            return pc.if_else(pc.equal(table.column("fault_id"), fault), pa.scalar(value, column.type), column)

        return change

    rewrite(own, due=crashed("due", "crash"), outcome=crashed("outcome", "due"), logits=crashed("logits", None))
    assert measured(own).ended == 1
    assert fault not in joined(own).fault_id.to_numpy()


def test_a_limit_takes_the_first_draws_of_every_stratum(own: Path) -> None:
    plan = pq.read_table(own / "faults.parquet").to_pandas()
    inside = plan[plan.site.astype(str).str.startswith("block.0.attn.") & (plan.site != "block.0.attn.residual")]
    strata = inside.stratum.nunique()
    facts = measured(own, 2 * strata)
    assert facts.faults == 2 * strata
    chosen = plan[plan.fault_id.isin(joined(own).fault_id)]
    assert set(chosen.draw) == {0, 1}
    assert chosen.stratum.value_counts().eq(2).all()


def test_it_is_measured_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("measured again")

    before = (own / "link.parquet").read_bytes()
    monkeypatch.setattr("testbed.sweep.link.LinkMeasurement.write", never)
    measured(own)
    assert (own / "link.parquet").read_bytes() == before
    with pytest.raises(AssertionError, match="measured again"):
        measured(own, 3)


def test_an_edited_link_is_refused(own: Path) -> None:
    with open(own / "link.parquet", "ab") as file:
        file.write(b" ")
    with pytest.raises(StaleArtefact, match=r"link\.parquet was edited .*`testbed sweep"):
        link_of(own)


def test_a_link_of_other_results_is_none(own: Path) -> None:
    rewrite(own, label=unlabelled)
    assert read_link(Workplace.at(own), RTOLS) is None


def test_a_campaign_without_such_faults_has_no_link(tmp_path: Path) -> None:
    values = copy.deepcopy(tomllib.loads(TINY.read_text()))
    values["faults"] = [values["faults"][2]]
    run_here(parse_spec(values), tmp_path / "attention")
    with pytest.raises(UsageError, match=r"strikes no model with a tensor block\.0\.attn\.proj"):
        measured(tmp_path / "attention")
    values["faults"] = [{"target": "model", "where": "activation", "sites": ["head"], "bits": [30], "per_stratum": 2}]
    run_here(parse_spec(values), tmp_path / "head")
    with pytest.raises(UsageError, match=r"no planned fault strikes block\.0\.attn\.\* of the model; add"):
        measured(tmp_path / "head")


# ---- the four rates


@pytest.mark.parametrize("tier", [None, 0, 1])
def test_rates_are_weighted_shares_of_the_two_by_two_table(finished: Path, tier: int | None, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "own"))
    asked = SweepRequest(atol=(1e-6, 1e-2, 1.0), rtol=(0.0, 1e-4), noise=())
    link = linked(folder, asked)
    (part,) = [p for p in link["models"] if (p["pattern"], p["scope"], p["tier"]) == ("single", "inference", tier)]
    rows = joined(folder)
    plan = pq.read_table(folder / "faults.parquet", columns=["fault_id", "population"]).to_pandas()
    rows = rows.merge(plan, on="fault_id")
    rows = rows[(rows.pattern == "single") & (rows.scope == "inference")]
    rows["weight"] = rows.population / rows.groupby("stratum")["fault_id"].transform("size")
    rows = rows if tier is None else rows[rows.tier == tier]
    changed = rows.top1_faulty != rows.top1_golden
    assert (part["n_rows"], part["n_sdc1"]) == (len(rows), changed.sum())
    for point in part["grid"]:
        out = np.stack(rows.module_masking_atol.tolist())[:, RTOLS.index(point["rtol"])] > point["atol"]
        for name, among, which in (
            ("sensitivity", changed, out),
            ("specificity", ~changed, ~out),
            ("ppv", out, changed),
            ("npv", ~out, ~changed),
        ):
            if not among.any():
                assert point[name] is None
                continue
            share = np.average(which[among], weights=rows.weight[among])
            assert point[name]["rate"] == pytest.approx(share, abs=1e-8)
            assert point[name]["low"] <= point[name]["rate"] <= point[name]["high"]
            assert point[name]["n"] == among.sum()


def test_a_stratum_that_holds_other_sites_too_weighs_by_its_part_in_the_module(own: Path) -> None:
    """As an adaptive campaign may have it: every stratum of one bit is one, of all sites together."""
    plan = pq.read_table(own / "faults.parquet")
    single = pc.and_(pc.equal(plan.column("pattern").cast(pa.string()), "single"), pc.is_valid(plan.column("image_id")))
    bit = pc.cast(plan.column("bit"), pa.int32())
    stratum = np.asarray(pc.if_else(single, bit, pc.add(plan.column("stratum"), 1000)))
    total = np.asarray(pc.if_else(single, 100000, plan.column("population")))
    of_fault = dict(zip(plan.column("fault_id").to_pylist(), stratum.tolist(), strict=True))
    rewrite(own, stratum=lambda table: pa.array([of_fault[f] for f in table.column("fault_id").to_pylist()]))
    for name, values in (("stratum", stratum), ("population", total)):
        place = plan.schema.get_field_index(name)
        plan = plan.set_column(place, plan.schema.field(place), pa.array(values).cast(plan.schema.field(place).type))
    pq.write_table(plan, own / "faults.parquet")
    manifest = json.loads((own / "manifest.json").read_text())
    manifest["stages"]["plan"]["outputs"]["faults.parquet"] = sha256_file(own / "faults.parquet")
    (own / "manifest.json").write_text(json.dumps(checksummed(manifest)))

    asked = SweepRequest(atol=(1e-2,), rtol=(0.0,), noise=())
    for limit in (None, 200):
        measured(own, limit)
        (part,) = [
            p
            for p in linked(own, asked)["models"]
            if (p["pattern"], p["scope"], p["tier"]) == ("single", "inference", None)
        ]
        every = pq.read_table(own / "results.parquet").to_pandas()
        every = every[(every.pattern == "single") & (every.scope == "inference")]
        inside = every.site.astype(str).str.startswith("block.0.attn.") & (every.site != "block.0.attn.residual")
        followed = joined(own)
        followed = followed[(followed.pattern == "single") & (followed.scope == "inference")]
        share = inside.groupby(every.stratum).mean()
        weight = followed.stratum.map(100000 * share) / followed.groupby("stratum")["fault_id"].transform("size")
        out = np.stack(followed.module_masking_atol.tolist())[:, 0] > 1e-2
        changed = followed.top1_faulty != followed.top1_golden
        (point,) = part["grid"]
        assert point["ppv"]["rate"] == pytest.approx(np.average(changed[out], weights=weight[out]), abs=1e-8)
        kept = np.average(~out[~changed], weights=weight[~changed])
        assert point["specificity"]["rate"] == pytest.approx(kept, abs=1e-8)


def test_what_never_leaves_the_module_never_changes_the_prediction(finished: Path) -> None:
    """A fault whose module output keeps every bit cannot be told from none by anything after it."""
    rows = joined(finished)
    kept = rows[rows.module_identical]
    assert len(kept) > 20
    assert set(kept.outcome) == {"identical"}


def rewrite(folder: Path, **columns: Any) -> None:
    """Other values in these columns, as if the campaign had found them. The others keep every bit."""
    path = folder / "results.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        changed = values(table) if callable(values) else pa.array(values)
        table = table.set_column(place, table.schema.field(place), changed.cast(table.schema.field(place).type))
    pq.write_table(table, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(path)
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))


def unlabelled(table: pa.Table) -> pa.Array:
    return pa.array(np.zeros(table.num_rows, np.int16))
