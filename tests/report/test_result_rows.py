from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.campaign.folder.pictures import as_uint8
from testbed.core.outcome import OUTCOMES
from testbed.report.read.images import stored_images
from testbed.report.read.worst_rows import WorstFault, compositions, worst_nonfinite, worst_predictions
from testbed.report.sections.fault_card import fault_card


def test_shares_are_a_partition_and_agree_with_the_summary(run_of: Callable[..., Path]) -> None:
    run = run_of()
    found = compositions(run)
    summary = json.loads((run / "summary.json").read_text())
    compared = 0
    for (target, where, op, bit_class), composition in found.items():
        assert sum(composition.shares.values()) == pytest.approx(1)
        assert list(composition.shares) == [o for o in OUTCOMES if o in composition.shares]
        by, value = ("all", None) if bit_class == "all" else ("bit_class", bit_class)
        record = next(
            m
            for m in summary["marginals"]
            if (m["target"], m["where"], m["op"], m["by"], m["value"]) == (target, where, op, by, value)
        )
        outside = sum(composition.shares.get(o, 0) for o in ("sdc_tolerable", "sdc1", "sdc", "due"))
        assert outside == pytest.approx(record["rates"]["outside"]["rate"])
        assert composition.rows == record["n"]
        compared += 1
    assert compared > 30


def test_each_fault_and_image_is_shown_once(run_of: Callable[..., Path]) -> None:
    for worst in (worst_predictions(run_of(), "weight", 100), worst_nonfinite(run_of(), "weight", 100)):
        assert len({fault.fault_id for fault in worst}) == len(worst) > 1
        assert len({fault.image_id for fault in worst}) == len(worst)
        margins = [fault.margin_golden for fault in worst]
        assert margins == sorted(margins, reverse=True)


def test_ties_go_to_the_surest_wrong_prediction(run_of: Callable[..., Path], tmp_path: Path) -> None:
    table = pq.read_table(run_of() / "results.parquet")
    for name in ("margin_golden",):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), [np.full(table.num_rows, 0.5, np.float32)])
    pq.write_table(table, tmp_path / "results.parquet")
    frame = table.to_pandas()
    chosen = frame[(frame["target"] == "model") & (frame["where"] == "activation") & (frame["outcome"] == "sdc1")]
    surest = chosen[~chosen["nonfinite"].astype(bool)]["margin_faulty"].max()
    assert worst_predictions(tmp_path, "activation", 1)[0].margin_faulty == pytest.approx(surest)


FAULT = WorstFault(
    fault_id=7,
    where="activation",
    site="head",
    index=3,
    op="flip",
    bit=30,
    format_name="fp32",
    image_id="toy/it's one",
    label=1,
    golden_value=1.0,
    faulty_value=float("inf"),
    golden_word=0x3F800000,
    faulty_word=0x7F800000,
    top1_golden=1,
    top1_faulty=-1,
    margin_golden=0.9,
    margin_faulty=None,
)


def test_a_card_tells_the_fault() -> None:
    card = fault_card(FAULT, ["cat", "dog"], None, None)
    assert (card.true_class, card.golden_class, card.faulty_class) == ("dog", "dog", "none (NaN)")
    assert (card.golden_margin, card.faulty_margin) == ("0.900", None)
    assert (card.before, card.after, card.element) == ("1", "+inf", "3")
    assert card.done == "bit 30 flipped (top exponent bit)"
    assert card.replay == """testbed fault replay DIR 7 --image 'toy/it'"'"'s one'"""
    assert "0x3f800000 became 0x7f800000" in card.bits
    assert card.bits.count("changed") == 1
    assert card.bits.count("bit one") == 7 + 8


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0.0, 0.5], [1.0, 2.0]], np.float32), [[0, 128], [255, 255]]),
        (np.array([[[7], [8]]], np.uint8), [[7, 8]]),
        (np.zeros((1, 1, 3), np.uint8), [[[0, 0, 0]]]),
    ],
)
def test_pixels_become_bytes(pixels: np.ndarray, expected: list) -> None:
    shown = as_uint8(pixels)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, expected)


def test_images_come_from_the_data_set_of_the_manifest(tmp_path: Path) -> None:
    load_image = stored_images(tmp_path, {"spec": {"data": {"name": "digits"}, "seed": 42}})
    assert load_image is not None
    from testbed.data import load

    test = load("digits", seed=42).test
    np.testing.assert_array_equal(load_image(test.ids[3]), np.rint(test.pixels(3) * 255))


@pytest.mark.parametrize("manifest", [{}, {"spec": {"data": {"name": "no such set"}}}])
def test_a_data_set_that_is_not_at_hand_shows_no_images(manifest: dict, tmp_path: Path) -> None:
    assert stored_images(tmp_path, manifest) is None
