"""A finished run as a library object: what it injects and replays is what the campaign stored, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import testbed
from testbed.campaign.run import Run
from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.fault import Op
from testbed.core.folder.runfolder import RunFolder
from tests.support.records import records

SITE = "block.0.attn.softmax"


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Iterator[Run]:
    with testbed.open_run(tiny_run) as found:
        yield found


@pytest.fixture(scope="module")
def rows(tiny_run: Path) -> pd.DataFrame:
    return pq.read_table(tiny_run / "results.parquet").to_pandas()


def words(values: Any) -> bytes:
    return np.asarray(values, np.float32).tobytes()


@pytest.mark.parametrize("target", ["model", "attention"])
@pytest.mark.parametrize("where", ["activation", "weight"])
def test_replayed_faults_are_the_stored_rows_bit_for_bit(run: Run, rows: pd.DataFrame, target: str, where: str) -> None:
    of_target = rows[(rows.target == target) & (rows["where"] == where)]
    for row in records(of_target.sample(12, random_state=0)):
        hit = run.replay(row.fault_id, row.image_id)
        assert (hit.site, hit.index, hit.op, hit.outcome) == (row.site, row.index, row.op, row.outcome)
        assert (hit.image_id, hit.label, hit.engine_hash) == (row.image_id, row.label, row.engine_hash)
        assert words([hit.golden_value, hit.faulty_value]) == words([row.golden_value, row.faulty_value])
        if target == "model":
            assert words(hit.faulty) == words(row.logits)
            assert hit.golden.argmax() == row.top1_golden
        else:
            deviation = np.abs(hit.faulty.astype(np.float64) - hit.golden).max()
            assert row.max_abs_diff == (deviation if np.isfinite(deviation) else np.inf)


@pytest.mark.parametrize("op", ["flip", "stuck0", "stuck1"])
def test_a_chosen_fault_is_the_planned_one(run: Run, rows: pd.DataFrame, op: Op) -> None:
    planned = rows[(rows.op == op) & (rows.target == "model")].groupby("where", observed=True).head(5)
    for row in records(planned):
        hit = run.inject(row.site, row.index, int(row.bit), row.image_id, op=op)
        assert words(hit.faulty) == words(row.logits)
        assert hit.outcome == row.outcome


def test_a_chosen_value_is_written(run: Run) -> None:
    hit = run.inject("head", 3, op="random", value=7.25)
    assert (hit.faulty_value, hit.faulty[3]) == (7.25, 7.25)
    assert words(np.delete(hit.faulty, 3)) == words(np.delete(hit.golden, 3))


@pytest.mark.parametrize("site", [SITE, "head.bias"])
def test_an_armed_port_that_changes_nothing_changes_nothing(run: Run, site: str) -> None:
    hit = run.inject(site, 5, op="identity")
    assert hit.outcome == "identical"
    assert words(hit.faulty) == words(hit.golden)
    assert hit.golden_value == hit.faulty_value


def test_faults_leave_no_trace(run: Run) -> None:
    first = run.inject(SITE, 5, 30)
    for site in ("head.bias", "block.0.mlp.fc1.weight", "block.0.mlp.gelu"):
        run.inject(site, 0, 30)
    again = run.inject(SITE, 5, 30)
    assert words(first.faulty) == words(again.faulty)
    assert words(first.golden) == words(again.golden)


def test_the_first_image_is_meant_where_none_is_named(run: Run) -> None:
    assert run.inject(SITE, 0, 3).image_id == run.image_ids[0]
    assert len(run.image_ids) == 6


def test_a_weight_faults_image_can_be_chosen(run: Run, rows: pd.DataFrame) -> None:
    fault = int(rows[(rows["where"] == "weight") & (rows.target == "model")].fault_id.iloc[0])
    hits = {image: run.replay(fault, image) for image in run.image_ids[:3]}
    assert [hit.image_id for hit in hits.values()] == list(hits)
    assert len({words(hit.golden) for hit in hits.values()}) == 3


def test_stored_rows_can_be_asked_for(run: Run, rows: pd.DataFrame) -> None:
    row = rows.iloc[17]
    stored = run.stored_row(int(row.fault_id), row.image_id)
    assert stored is not None
    assert stored.outcome == row.outcome
    assert words(stored.logits) == words(row.logits)
    assert run.stored_row(10**6, row.image_id) is None
    assert len(run.results) == len(rows)


def test_sites_are_listed_per_target(run: Run) -> None:
    assert run.sites()[SITE].shape == (2, 17, 17)
    assert {site.block for site in run.sites("attention")} == {0}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda run: run.inject("block.9.attn.q", 0, 3), "no site 'block.9.attn.q'"),
        (lambda run: run.inject(SITE, 10**6, 3), "there is no element 1000000"),
        (lambda run: run.inject(SITE, -1, 3), "there is no element -1"),
        (lambda run: run.inject(SITE, 0, 32), "bit from 0 to 31"),
        (lambda run: run.inject(SITE, 0), "flip needs a bit"),
        (lambda run: run.inject(SITE, 0, 3, "digits/none"), "image 'digits/none' is not one of the campaign's 6"),
        (lambda run: run.inject(SITE, 0, 3, op="melt"), "unknown fault operation 'melt'"),
        (lambda run: run.inject(SITE, 0, op="random"), "give value="),
        (lambda run: run.inject(SITE, 0, 3, target="body"), "no target 'body'; it has model, attention"),
        (lambda run: run.replay(10**6), "there is no fault 1000000; this campaign's are numbered 0 to"),
        (lambda run: run.replay(-1), "there is no fault -1"),
        (lambda run: run.replay(0, "digits/none"), "it has no other image"),
        (lambda run: run.sites("body"), "no target 'body'"),
    ],
)
def test_what_does_not_exist_is_told_in_one_line(run: Run, call: Any, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(run)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        testbed.open_run(tmp_path)
    folder = RunFolder.claimed(tmp_path / "other", "golden", "x", 1, [])
    with folder.locked():
        folder.save()
    with pytest.raises(UsageError, match="holds no campaign but a golden"):
        testbed.open_run(tmp_path / "other")


@pytest.mark.parametrize("name", ["model.safetensors", "tiers.json", "model.twin.onnx", "golden/logits.npy"])
def test_a_changed_file_is_refused_before_anything_is_injected(tiny_copy: Path, name: str) -> None:
    with open(tiny_copy / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(StaleArtefact, match=rf"{name} was edited or truncated .*--redo"):
        testbed.open_run(tiny_copy)


def test_an_edited_spec_is_refused(tiny_copy: Path) -> None:
    """Its tolerance would judge what is replayed."""
    folder = RunFolder.existing(tiny_copy)
    folder.manifest["spec"]["tolerance"]["atol"] = 1.0
    folder.save()
    with pytest.raises(StaleArtefact, match=r"the spec in .*manifest\.json was edited"):
        testbed.open_run(tiny_copy)


def test_changed_results_are_refused_when_they_are_asked_for(tiny_copy: Path) -> None:
    (tiny_copy / "results.parquet").write_bytes(b"PAR1")
    with testbed.open_run(tiny_copy) as run:
        assert run.inject(SITE, 0, 30).outcome
        for call in (lambda: run.results, lambda: run.stored_row(0, run.image_ids[0])):
            with pytest.raises(StaleArtefact, match=r"results\.parquet .*--redo execute"):
                call()


def test_an_unfinished_campaign_can_be_looked_at(gated: Path, tiny_run: Path) -> None:
    folder = RunFolder.existing(gated)
    shutil.copy(tiny_run / "faults.parquet", gated)
    folder.manifest["stages"]["plan"] = RunFolder.existing(tiny_run).manifest["stages"]["plan"]
    folder.save()
    with testbed.open_run(gated) as run:
        hit = run.replay(0)
        assert hit.outcome
        assert run.stored_row(0, hit.image_id) is None
        with pytest.raises(StaleArtefact, match=r"has no results\.parquet yet"):
            _ = run.results


def test_a_campaign_that_only_began_says_so(tiny_copy: Path) -> None:
    folder = RunFolder.existing(tiny_copy)
    folder.redo("golden", list(folder.manifest["stages"]))
    folder.save()
    with pytest.raises(TestbedError, match="no 'golden' stage yet; run the campaign to the end first"):
        testbed.open_run(tiny_copy)


def test_names_of_the_package_load_on_first_use() -> None:
    assert testbed.Run is Run
    with pytest.raises(AttributeError, match="no attribute 'Walk'"):
        _ = testbed.Walk
