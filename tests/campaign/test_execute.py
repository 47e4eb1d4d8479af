"""Running faults: who is blamed when the engine fails, and that no row depends on the company it was run in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from testbed.campaign.execute import ActivationLeg, Bench, Judge, NotDeterministic, WeightLeg
from testbed.campaign.images import NamedImages
from testbed.campaign.pipeline import Campaign
from testbed.campaign.plan import Leg, fault_row, legs, read_plan, table_of
from testbed.campaign.prepare import Preparation
from testbed.campaign.spec import CampaignSpec
from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.runfolder import RunFolder
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import BaseRunner, EngineInfo
from testbed.instrument.feed import INDEX, LIVE, SITE, VALUE

WIDTH, BATCH = 4, 8
TABLE = SiteTable("model", "id", "gated_replace", (Site("head", "activation", (WIDTH,)), Site("w", "weight", (WIDTH,))))
IMAGES = NamedImages(("a", "b", "c"), np.array([0, 1, 2]), np.zeros(3, np.int16), np.arange(3))
PIXELS = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
JUDGE = Judge(np.array([1e-6]), 0.0, (0.0,), "none")


class Engine(BaseRunner):
    """logits = pixels * w, with a port at the logits. ``breaks`` decides from a batch's feed whether it fails."""

    opened = 0
    breaks: Callable[[Any], bool] = staticmethod(lambda feeds: False)

    def __init__(self) -> None:
        Engine.opened += 1
        self.info = EngineInfo("fake", "fp32", "sha", "id")
        self.w = np.ones(WIDTH, np.float32)
        self.runs = 0

    def weight(self, tensor: str) -> NDArray:
        assert tensor == "w"
        return self.w

    def run(self, feeds: Any) -> dict[str, NDArray]:
        self.runs += 1
        assert len(feeds["x"]) == BATCH  # frozen: also the last batch is a full one
        feeds = {**feeds, "w": self.w, "runs": self.runs, "opened": Engine.opened}
        if Engine.breaks(feeds):
            raise EngineError("the engine broke")
        live = feeds["x"] * self.w
        if SITE not in feeds:
            return {"logits": live}
        rows, site = np.arange(BATCH), feeds[SITE][:, 0]
        struck = live.copy()
        struck[rows[site >= 0], feeds[INDEX][site >= 0, 0]] = feeds[VALUE][site >= 0, 0]
        return {"logits": struck, LIVE: live[rows, feeds[INDEX][:, 0]][:, None]}


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], bool]], None]:
    def when(breaks: Callable[[Any], bool]) -> None:
        monkeypatch.setattr(Engine, "breaks", staticmethod(breaks))

    return when


def bench() -> Bench:
    return Bench("model", TABLE, Engine(), Engine, lambda rows: PIXELS[rows], "x", "logits", IMAGES, BATCH)


def leg(where: str, faults: Sequence[tuple[int, int]]) -> Leg:
    """One fault per (index, bit); activations of image after image."""
    site = TABLE["head" if where == "activation" else "w"]
    rows = []
    for number, (index, bit) in enumerate(faults):
        image = IMAGES.ids[number % 3] if where == "activation" else None
        row = fault_row("model", site, "flip", bit, index, masks_for("flip", site.format, bit), image)
        rows.append(row | {"fault_id": number})
    return Leg("model", where, table_of(rows))


FAULTS = [(number % WIDTH, 8 + number) for number in range(21)]


def activation_leg() -> ActivationLeg:
    part = leg("activation", FAULTS)
    return ActivationLeg(bench(), part, golden_words(FAULTS), JUDGE)


def golden_words(faults: Sequence[tuple[int, int]]) -> NDArray[np.uint32]:
    return np.array([PIXELS[number % 3, index] for number, (index, _) in enumerate(faults)], np.float32).view(np.uint32)


def all_rows(runner: ActivationLeg | WeightLeg) -> list[dict[str, Any]]:
    return pa.concat_tables([runner.run_unit(unit) for unit in range(runner.units)]).to_pylist()


def same(some: dict[str, Any], other: dict[str, Any], but: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
    """Equal in every column, NaN to NaN."""
    return all(repr(some[name]) == repr(other[name]) for name in some if name not in but)


# ---- activations


def writes(feeds: Any, word: int) -> bool:
    return SITE in feeds and bool((feeds[VALUE].view(np.uint32) == word).any())


def test_rows_say_what_was_struck_and_what_came_of_it() -> None:
    rows = all_rows(activation_leg())
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


def test_a_fault_that_fails_alone_again_is_due_and_its_neighbours_are_not(
    breaking: Callable[[Callable[[Any], bool]], None],
) -> None:
    calm = all_rows(activation_leg())
    breaking(lambda feeds: writes(feeds, calm[10]["faulty_word"]))
    rows = all_rows(activation_leg())
    assert rows[10]["outcome"] == "due"
    assert not rows[10]["infrastructure_failure"]
    for name in ("logits", "top1_faulty", "margin_faulty", "probability_faulty", "nonfinite", "sdc5", "sdc10", "sdc20"):
        assert rows[10][name] is None, name
    assert rows[10]["golden_value"] == calm[10]["golden_value"]
    for number, row in enumerate(rows):
        if number != 10:
            assert same(row, calm[number], but={"infrastructure_failure"})
    assert [row["fault_id"] for row in rows if row["infrastructure_failure"]] == [8, 9, 11, 12, 13, 14, 15]


def test_a_fault_that_only_fails_in_company_is_no_due(breaking: Callable[[Callable[[Any], bool]], None]) -> None:
    calm = all_rows(activation_leg())
    breaking(lambda feeds: writes(feeds, calm[3]["faulty_word"]) and (feeds[SITE] >= 0).sum() > 1)
    rows = all_rows(activation_leg())
    assert [row["fault_id"] for row in rows if row["infrastructure_failure"]] == list(range(BATCH))
    assert all(same(row, other, but={"infrastructure_failure"}) for row, other in zip(rows, calm, strict=True))


def test_a_suspect_is_run_alone_on_an_engine_of_its_own(breaking: Callable[[Callable[[Any], bool]], None]) -> None:
    runner = activation_leg()
    seen = []

    def note(feeds: Any) -> bool:
        struck = int((feeds[SITE] >= 0).sum())
        seen.append((struck, feeds["opened"], feeds["runs"]))
        return struck > 1

    breaking(note)
    runner.run_unit(0)
    alone = [(opened, runs) for struck, opened, runs in seen if struck == 1]
    assert len({opened for opened, _ in alone}) == len(FAULTS)
    assert {runs for _, runs in alone} == {1}


def test_an_engine_that_cannot_be_built_again_is_no_faults_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = activation_leg()

    def gone() -> Any:
        raise EngineError("no such engine any more")

    monkeypatch.setattr(Engine, "breaks", staticmethod(lambda feeds: True))
    runner.bench.reopen = gone
    with pytest.raises(EngineError, match="no such engine any more"):
        runner.run_unit(0)


def test_an_engine_that_gives_other_bits_than_its_golden_is_refused() -> None:
    runner = activation_leg()
    runner.golden_words[5] ^= 1
    with pytest.raises(NotDeterministic, match=r"head\[1\] was 0x.* in the engine and .*not deterministic") as caught:
        runner.run_unit(0)
    assert not isinstance(caught.value, EngineError)  # which would be taken for the fault's doing


def test_a_negative_zero_is_not_taken_for_zero() -> None:
    runner = activation_leg()
    runner.bench.inputs = lambda rows: np.zeros((len(rows), WIDTH), np.float32)
    runner.golden_words[:] = 0x80000000
    with pytest.raises(NotDeterministic):
        runner.inject(np.array([0]))


# ---- weights


def test_a_weight_fault_strikes_every_image_and_is_undone() -> None:
    runner = WeightLeg(bench(), leg("weight", FAULTS), JUDGE)
    rows = all_rows(runner)
    assert [(row["fault_id"], row["image_id"]) for row in rows] == [(f, i) for f in range(21) for i in IMAGES.ids]
    for row in rows:
        weights = np.ones(WIDTH, np.float32)
        weights[row["index"]] = row["faulty_value"]
        with np.errstate(over="ignore"):
            wanted = PIXELS[IMAGES.ids.index(row["image_id"])] * weights
        np.testing.assert_array_equal(np.float32(row["logits"]), wanted)
    assert runner.bench.runner.w.tolist() == [1.0] * WIDTH  # type: ignore[attr-defined]


@pytest.mark.parametrize("how_often", [1, 2])
def test_a_weight_fault_is_blamed_when_it_fails_twice(
    breaking: Callable[[Callable[[Any], bool]], None], how_often: int
) -> None:
    calm = all_rows(WeightLeg(bench(), leg("weight", FAULTS), JUDGE))
    bad = calm[3 * 7]["faulty_word"]
    failures: list[int] = []

    def breaks(feeds: Any) -> bool:
        if (feeds["w"].view(np.uint32) == bad).any() and len(failures) < how_often:
            failures.append(1)
            return True
        return False

    breaking(breaks)
    rows = all_rows(WeightLeg(bench(), leg("weight", FAULTS), JUDGE))
    mine = [row for row in rows if row["fault_id"] == 7]
    if how_often == 2:
        assert [row["outcome"] for row in mine] == ["due"] * 3
        assert [row["logits"] for row in mine] == [None] * 3
        assert not any(row["infrastructure_failure"] for row in rows)
        assert {(row["golden_value"], row["faulty_word"]) for row in mine} == {(1.0, bad)}
    else:
        assert [row["fault_id"] for row in rows if row["infrastructure_failure"]] == [7] * 3
    for row, other in zip(rows, calm, strict=True):
        if how_often == 1 or row["fault_id"] != 7:
            assert same(row, other, but={"infrastructure_failure"})


# ---- the real engine


@pytest.fixture(scope="module")
def real(tiny_run: Path, tiny_spec: CampaignSpec) -> Iterator[Callable[[pa.Table, str, str], list[dict[str, Any]]]]:
    """Runs any selection of a leg's planned faults, in any order, through the campaign's engines."""
    with ExitStack() as stack:
        campaign = Campaign(Preparation(tiny_spec, RunFolder.existing(tiny_run)), stack)

        def rows(faults: pa.Table, target: str, where: str) -> list[dict[str, Any]]:
            bench, part = campaign.bench(target, where), Leg(target, where, faults.combine_chunks())
            if where == "weight":
                return all_rows(WeightLeg(bench, part, campaign.judge))
            return all_rows(ActivationLeg(bench, part, campaign.golden_words(bench, part), campaign.judge))

        yield rows


@pytest.mark.parametrize("target", ["model", "attention"])
@pytest.mark.parametrize("where", ["activation", "weight"])
def test_no_row_depends_on_its_batch_or_the_order_of_work(
    tiny_run: Path, real: Callable[..., list[dict[str, Any]]], target: str, where: str
) -> None:
    """A shuffled part of the plan, with a tail that is not a whole batch, gives the stored rows bit for bit."""
    plan = legs(read_plan(tiny_run / "faults.parquet"))
    (faults,) = (part.table for part in plan if (part.target, part.where) == (target, where))
    chosen = np.random.default_rng(0).permutation(faults.num_rows)[: 16 * 9 + 5]
    rows = real(faults.take(pa.array(chosen)), target, where)
    filters = [("target", "=", target), ("where", "=", where)]
    results = pq.read_table(tiny_run / "results.parquet", filters=filters).to_pylist()
    stored = {(row["fault_id"], row["image_id"]): row for row in results}
    assert len(rows) == len(chosen) * (1 if where == "activation" else 6)
    assert all(same(row, stored[row["fault_id"], row["image_id"]]) for row in rows)


def test_units_cover_the_leg_once_and_in_order() -> None:
    for runner in (activation_leg(), WeightLeg(bench(), leg("weight", FAULTS), JUDGE)):
        assert runner.units == 1
    large = [(n % WIDTH, n % 23) for n in range(2500)]
    runner = ActivationLeg(bench(), leg("activation", large), golden_words(large), JUDGE)
    assert runner.units == 3
    assert [row["fault_id"] for row in all_rows(runner)] == list(range(2500))
