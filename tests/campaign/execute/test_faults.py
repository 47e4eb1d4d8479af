"""Running faults: what rows say, and that no row depends on the company it was run in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import Outcomes
from testbed.campaign.evaluate.contract import Evaluated, Injections, NotDeterministic
from testbed.campaign.evaluate.golden_words import golden_words as golden_words_of
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.execute.faults import ActivationFaultRunner, FaultRunner, WeightFaultRunner
from testbed.campaign.execute.worker import fault_runner_for, open_worker
from testbed.campaign.files import PLAN, words_file
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import Inputs, NamedImages
from testbed.campaign.folder.judge import Judge
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.row import PlanRow, table_of
from testbed.campaign.plan.table import PlanSlice, plan_slices, read_plan
from testbed.campaign.plan.units import plan_slice_of, units_of
from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import Site, SiteTable, Where
from testbed.engines.runner import BaseRunner, EngineInfo
from testbed.instrument.ports.feed import INDEX, LIVE, SITE, VALUE

WIDTH, BATCH = 4, 8
TABLE = SiteTable("model", "id", "gated_replace", (Site("head", "activation", (WIDTH,)), Site("w", "weight", (WIDTH,))))
IMAGES = NamedImages(("a", "b", "c"), np.array([0, 1, 2]), np.zeros(3, np.int16), np.arange(3))
PIXELS = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
JUDGE = Judge(np.array([1e-6]), 0.0, (0.0,), "none")


class Engine(BaseRunner):
    """logits = pixels * w, with a port at the logits."""

    def __init__(self) -> None:
        self.info = EngineInfo("fake", "fp32", "sha", "id")
        self.w = np.ones(WIDTH, np.float32)

    def weight(self, tensor: str) -> NDArray:
        assert tensor == "w"
        return self.w

    def run(self, feeds: Any) -> dict[str, NDArray]:
        assert len(feeds["x"]) == BATCH  # frozen: also the last batch is a full one
        live = feeds["x"] * self.w
        if SITE not in feeds:
            return {"logits": live}
        rows, site = np.arange(BATCH), feeds[SITE][:, 0]
        faulty = live.copy()
        faulty[rows[site >= 0], feeds[INDEX][site >= 0, 0]] = feeds[VALUE][site >= 0, 0]
        return {"logits": faulty, LIVE: live[rows, feeds[INDEX][:, 0]][:, None]}


def engine(where: Where = "activation", inputs: Inputs = lambda rows: PIXELS[rows]) -> CampaignEngine:
    return CampaignEngine("model", where, TABLE, Engine(), inputs, "x", "logits", IMAGES, BATCH)


def activations(at: CampaignEngine | None = None) -> ActivationFaultRunner:
    at = at or engine()
    return ActivationFaultRunner(at, WholeTwin(at), JUDGE)


def weights() -> WeightFaultRunner:
    return WeightFaultRunner(engine("weight"), JUDGE)


NO_WORDS = np.zeros(0, np.uint32)


def plan_slice(where: Where, faults: Sequence[tuple[int, int]]) -> PlanSlice:
    """One fault per (index, bit); activations of image after image."""
    site = TABLE["head" if where == "activation" else "w"]
    rows = []
    for number, (index, bit) in enumerate(faults):
        image = IMAGES.ids[number % 3] if where == "activation" else None
        masks = masks_for("flip", site.format, bit)
        rows.append(PlanRow.single("model", site, "flip", bit, index, masks, image, number))
    return PlanSlice("model", where, table_of(rows))


FAULTS = [(number % WIDTH, 8 + number) for number in range(21)]


def golden_words(faults: Sequence[tuple[int, int]]) -> NDArray[np.uint32]:
    return np.array([PIXELS[number % 3, index] for number, (index, _) in enumerate(faults)], np.float32).view(np.uint32)


def rows_in(stream: bytes) -> pa.Table:
    return pa.ipc.open_stream(stream).read_all()


def same(some: dict[str, Any], other: dict[str, Any], but: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
    """Equal in every column, NaN to NaN."""
    return all(repr(some[name]) == repr(other[name]) for name in some if name not in but)


# ---- activations


def test_rows_say_what_was_injected_and_what_came_of_it() -> None:
    rows = activations().rows(plan_slice("activation", FAULTS), golden_words(FAULTS)).to_pylist()
    assert [row["fault_id"] for row in rows] == list(range(21))
    for row in rows:
        image = IMAGES.ids.index(row["image_id"])
        logits = PIXELS[image].copy()
        assert np.float32(row["golden_value"]) == logits[row["index"]]
        word = logits[row["index"]].view(np.uint32) ^ np.uint32(1 << row["bit"])
        logits[row["index"]] = word.view(np.float32)
        np.testing.assert_array_equal(np.float32(row["logits"]), logits)
        assert (row["top1_golden"], row["label"]) == (PIXELS[image].argmax(), image)
        assert not row["infrastructure_failure"]


def test_faults_that_the_engine_did_not_survive_are_due_and_have_no_output() -> None:
    part, words = plan_slice("activation", FAULTS), golden_words(FAULTS)
    calm = activations().rows(part, words).to_pylist()
    rows = activations().blamed(part, words, "crash").to_pylist()
    for row, other in zip(rows, calm, strict=True):
        assert (row["outcome"], row["due"], row["max_abs_diff"]) == ("due", "crash", float("inf"))
        for name in ("logits", "top1_faulty", "margin_faulty", "probability_faulty", "nonfinite", "sdc5"):
            assert row[name] is None, name
        for name in (
            "fault_id",
            "image_id",
            "golden_value",
            "golden_word",
            "faulty_word",
            "top1_golden",
            "margin_golden",
        ):
            assert row[name] == other[name], name


def test_an_engine_that_gives_other_bits_than_its_golden_is_refused() -> None:
    words = golden_words(FAULTS)
    words[5] ^= 1
    with pytest.raises(NotDeterministic, match=r"head\[1\] was 0x.* in the engine and .*not deterministic") as caught:
        activations().rows(plan_slice("activation", FAULTS), words)
    assert not isinstance(caught.value, EngineError)  # which would be taken for the fault's doing


def test_a_negative_zero_is_not_taken_for_zero() -> None:
    zeros = engine(inputs=lambda rows: np.zeros((len(rows), WIDTH), np.float32))
    with pytest.raises(NotDeterministic):
        activations(zeros).rows(plan_slice("activation", FAULTS), np.full(len(FAULTS), 0x80000000, np.uint32))


def test_outputs_that_come_in_parts_and_out_of_order_are_put_in_order() -> None:
    class Backwards(WholeTwin):
        def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
            yield from reversed(list(super().evaluate(injections)))

    at, part, words = engine(), plan_slice("activation", FAULTS), golden_words(FAULTS)
    wanted = activations().rows(part, words)
    assert ActivationFaultRunner(at, Backwards(at), JUDGE).rows(part, words).equals(wanted)


# ---- weights


def test_a_weight_fault_is_of_every_image_and_is_undone() -> None:
    runner = weights()
    rows = runner.rows(plan_slice("weight", FAULTS), NO_WORDS).to_pylist()
    assert [(row["fault_id"], row["image_id"]) for row in rows] == [(f, i) for f in range(21) for i in IMAGES.ids]
    for row in rows:
        faulty = np.ones(WIDTH, np.float32)
        faulty[row["index"]] = row["faulty_value"]
        with np.errstate(over="ignore"):
            wanted = PIXELS[IMAGES.ids.index(row["image_id"])] * faulty
        np.testing.assert_array_equal(np.float32(row["logits"]), wanted)
    assert runner.engine.runner.w.tolist() == [1.0] * WIDTH  # type: ignore[attr-defined]


def test_a_weight_fault_that_the_engine_did_not_survive_is_due_for_every_image() -> None:
    part = plan_slice("weight", FAULTS)
    calm, rows = weights().rows(part, NO_WORDS).to_pylist(), weights().blamed(part, NO_WORDS, "hang").to_pylist()
    assert {(row["outcome"], row["due"], row["logits"]) for row in rows} == {("due", "hang", None)}
    for row, other in zip(rows, calm, strict=True):
        assert [row[n] for n in ("fault_id", "image_id", "golden_value", "faulty_word")] == [
            other[n] for n in ("fault_id", "image_id", "golden_value", "faulty_word")
        ]


# ---- beside the engine


class CountingJudge(Judge):
    judged = 0

    def outcomes(self, engine: CampaignEngine, outputs: NDArray[np.float32], image: NDArray[np.int64]) -> Outcomes:
        CountingJudge.judged += len(outputs)
        return super().outcomes(engine, outputs, image)


@pytest.mark.parametrize("where", ["activation", "weight"])
@pytest.mark.parametrize("waiting_bytes", [0, 2**20])
def test_rows_are_made_without_the_engine(monkeypatch: pytest.MonkeyPatch, where: Where, waiting_bytes: int) -> None:
    """Another thread may: so the golden is run before, too. What is too much to wait is judged at once."""
    part, words = plan_slice(where, FAULTS), golden_words(FAULTS) if where == "activation" else NO_WORDS
    wanted = (activations() if where == "activation" else weights()).rows(part, words)
    at, judge = engine(where), CountingJudge(JUDGE.atol, JUDGE.rtol, JUDGE.rtol_grid, JUDGE.detector)
    runner = ActivationFaultRunner(at, WholeTwin(at), judge) if where == "activation" else WeightFaultRunner(at, judge)
    monkeypatch.setattr(FaultRunner, "waiting_bytes", waiting_bytes)
    monkeypatch.setattr(CountingJudge, "judged", 0)
    make = runner.evaluate(part, words)
    assert CountingJudge.judged == (0 if waiting_bytes else wanted.num_rows)
    monkeypatch.setattr(Engine, "run", lambda self, feeds: pytest.fail("the engine was run"))
    assert make().equals(wanted)


# ---- the real engine


@pytest.fixture(scope="module")
def place(tiny_run: Path) -> Iterator[Workplace]:
    found = Workplace.at(tiny_run)
    yield found
    found.close()


@pytest.fixture(scope="module")
def stored(tiny_run: Path) -> dict[tuple[int, str], dict[str, Any]]:
    rows = pq.read_table(tiny_run / "results.parquet").to_pylist()
    return {(row["fault_id"], row["image_id"]): row for row in rows}


@pytest.mark.parametrize("target", ["model", "attention"])
@pytest.mark.parametrize("where", ["activation", "weight"])
def test_no_row_depends_on_its_batch_or_the_order_of_work(
    place: Workplace, stored: dict[tuple[int, str], dict[str, Any]], tiny_run: Path, target: str, where: Where
) -> None:
    """A shuffled part of the plan, with a tail that is not a whole batch, gives the stored rows bit for bit."""
    (faults,) = (
        plan_slice.table
        for plan_slice in plan_slices(read_plan(tiny_run / "faults.parquet"))
        if (plan_slice.target, plan_slice.where) == (target, where)
    )
    chosen = np.random.default_rng(0).permutation(faults.num_rows)[: 16 * 9 + 5]
    part = PlanSlice(target, where, faults.take(pa.array(chosen)).combine_chunks())
    words = golden_words_of(place, part) if where == "activation" else NO_WORDS
    rows = fault_runner_for(place, target, where).rows(part, words).to_pylist()
    assert len(rows) == len(chosen) * (1 if where == "activation" else 6)
    assert all(same(row, stored[row["fault_id"], row["image_id"]]) for row in rows)


def test_a_worker_that_has_only_the_folder_gives_the_stored_rows(
    stored: dict[tuple[int, str], dict[str, Any]], tiny_run: Path
) -> None:
    """Whole units, and chosen faults of a unit; a retried fault is marked, and is the same in every other column."""
    worker = open_worker(str(tiny_run))
    units = list(units_of(tiny_run / PLAN, PLAN, 6, 64, 0))
    for unit in (units[0], units[len(units) // 2], units[-1]):
        table = rows_in(worker.run(unit))
        assert table.num_rows == unit.rows
        some = rows_in(worker.run(unit, [0, len(unit) - 1], retried=True)).to_pylist()
        assert {row["fault_id"] for row in some} == {table.column("fault_id")[place].as_py() for place in (0, -1)}
        assert all(row["infrastructure_failure"] for row in some)
        assert worker.golden_seconds(unit, len(unit)) > 0
        for row in (*table.to_pylist(), *some):
            assert same(row, stored[row["fault_id"], row["image_id"]], but={"infrastructure_failure"})
        blamed = rows_in(worker.blame(unit, [0], "crash")).to_pylist()
        assert {(row["outcome"], row["due"]) for row in blamed} == {("due", "crash")}
    assert worker.golden() == RunFolder.existing(tiny_run).manifest["stages"]["gates"]["facts"]["goldens"]
    worker.close()


@given(rows=st.integers(1, 400))
def test_units_cover_the_plan_once_and_in_order_whatever_their_size(tiny_run: Path, rows: int) -> None:
    plan = read_plan(tiny_run / PLAN)
    units = list(units_of(tiny_run / PLAN, PLAN, 6, rows, 3))
    assert [unit.number for unit in units] == list(range(3, 3 + len(units)))
    assert [unit.start for unit in units] == [0, *(unit.stop for unit in units[:-1])]
    assert units[-1].stop == plan.num_rows
    words = np.load(tiny_run / words_file(PLAN))
    assert [unit.word for unit in units] == [0, *np.cumsum([unit.words for unit in units[:-1]])]
    assert units[-1].word + units[-1].words == len(words)
    for unit in units[:: max(1, len(units) // 5)]:
        part = plan.slice(unit.start, len(unit))
        assert (
            plan_slice_of(tiny_run / PLAN, unit.start, unit.stop)
            .table.column("fault_id")
            .equals(part.column("fault_id"))
        )
        weights = part.column("where")[0].as_py() == "weight"
        assert unit.rows == len(unit) * (6 if weights else 1) <= max(rows, 6)
        assert unit.words == (0 if weights else len(unit))
