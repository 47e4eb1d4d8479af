"""The fault lens against hooks on the model itself, the stored predictions, and verdicts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import testbed
from testbed.models.vit import taps
from testbed.sensitivity.fault_lens import (
    ABSORBED,
    FaultLens,
    StateChange,
    TokenChange,
    lens_of,
    look_through,
)
from testbed.sensitivity.fault_subject import FaultSubject, open_fault
from testbed.sensitivity.stored_fault import activation_edits
from tests.support.commands import answer, error_of, invoke
from tests.support.records import records


def rows_of(folder: Path, where: str) -> pd.DataFrame:
    filters = [("target", "=", "model"), ("where", "=", where)]
    rows: pd.DataFrame = pq.read_table(folder / "results.parquet", filters=filters).to_pandas()
    return rows


def residuals(subject: FaultSubject, *, faulty: bool) -> dict[str, np.ndarray]:
    """(N, D) after the embedding and every block, by hooks of our own on the plain forward pass."""
    model = subject.model
    seen: dict[str, np.ndarray] = {}
    known = taps(model)
    handles = []
    if faulty:
        edits = activation_edits(model, subject.fault)
        handles = [
            known[site].register_forward_hook(lambda *call, edit=edit: edit(call[2])) for site, edit in edits.items()
        ]
    states = {"embed": known["embed"]} | {f"block.{n}": block for n, block in enumerate(model.block)}
    for name, module in states.items():
        handles.append(
            module.register_forward_hook(lambda *call, name=name: seen.__setitem__(name, call[2][0].numpy()))
        )
    with torch.inference_mode():
        model(torch.from_numpy(subject.pixels[None]))
    for handle in handles:
        handle.remove()
    return seen


def test_states_are_those_of_the_plain_forward_pass(tiny_run: Path) -> None:
    for row in records(rows_of(tiny_run, "activation").sample(12, random_state=1)):
        subject = open_fault(tiny_run, row.fault_id)
        lens = lens_of("run", subject)
        golden, faulty = residuals(subject, faulty=False), residuals(subject, faulty=True)
        assert [block.after for block in lens.blocks] == list(golden)
        for block in lens.blocks:
            before, after = golden[block.after].astype(np.float64), faulty[block.after].astype(np.float64)
            changed = np.flatnonzero((golden[block.after].view(np.int32) != faulty[block.after].view(np.int32)).any(1))
            assert [token.token for token in block.tokens] == changed.tolist()
            if np.isfinite(after).all():
                expected = np.linalg.norm(after[0] - before[0]) / np.linalg.norm(before[0])
                assert block.deviation == pytest.approx(expected, rel=1e-9, abs=1e-300)
            elif not np.isfinite(after[0]).all():
                assert block.deviation is None


def test_the_last_state_says_what_the_campaign_stored(tiny_run: Path) -> None:
    wrong = total = 0
    for where in ("activation", "weight"):
        for row in records(rows_of(tiny_run, where).sample(25, random_state=2)):
            lens = look_through(tiny_run, row.fault_id, row.image_id)
            last = lens.blocks[-1]
            assert (last.golden_class, last.golden_rank) == (row.label, 0)  # tiers are of images that are right
            if not np.isfinite(row.logits).all():
                continue
            if lens.fault.site in ("norm", "head", "norm.weight", "norm.bias", "head.weight", "head.bias"):
                continue  # behind the last state
            total += 1
            wrong += last.faulty_class != int(np.argmax(row.logits))
            assert (lens.takes_over is None) == last.agrees
    assert total > 20
    assert wrong == 0


def test_nothing_differs_before_the_fault(tiny_run: Path) -> None:
    rows = rows_of(tiny_run, "activation")
    late = rows[rows.block == rows.block.max()].sample(5, random_state=3)
    for row in records(late):
        lens = look_through(tiny_run, row.fault_id)
        for block in lens.blocks[: int(row.block) + 1]:  # the embedding and the blocks before
            assert not block.touched
            assert block.deviation == 0


def state(after: str, golden: int, faulty: int, deviation: float | None, touched: bool = True) -> StateChange:
    tokens = (TokenChange(0, deviation, golden, faulty),) if touched else ()
    return StateChange(after, deviation, golden, faulty, 0, 0, tokens)


def lens(*states: StateChange) -> FaultLens:
    return FaultLens("run", None, 5, states)  # type: ignore[arg-type]


def test_verdicts_by_hand() -> None:
    quiet, loud = ABSORBED / 2, 0.5
    untouched = state("embed", 3, 3, 0.0, touched=False)
    taken = lens(untouched, state("block.0", 3, 3, loud), state("block.1", 3, 1, loud), state("block.2", 3, 1, None))
    assert (taken.enters, taken.takes_over, taken.repaired, taken.absorbed) == ("block.0", "block.1", None, None)
    repaired = lens(untouched, state("block.0", 3, 1, loud), state("block.1", 3, 3, loud))
    assert (repaired.takes_over, repaired.repaired, repaired.absorbed) == (None, "block.1", None)
    absorbed = lens(
        untouched, state("block.0", 3, 3, loud), state("block.1", 3, 3, quiet), state("block.2", 3, 3, quiet)
    )
    assert (absorbed.takes_over, absorbed.repaired, absorbed.absorbed) == (None, None, "block.1")
    back = lens(state("block.0", 3, 3, quiet), state("block.1", 3, 3, loud))
    assert back.absorbed is None
    none = lens(untouched, state("block.0", 3, 3, 0.0, touched=False))
    assert (none.enters, none.takes_over, none.repaired, none.absorbed) == (None, None, None, None)


def test_on_the_command_line_and_from_python(tiny_run: Path, tmp_path: Path) -> None:
    told = answer("fault", "show", tiny_run, 3)
    view = testbed.examine_fault(tiny_run, 3)
    assert view.to_json() == told
    assert list(view.blocks.after) == [block["after"] for block in told["blocks"]]
    assert len(view.tokens) == sum(len(block["tokens"]) for block in told["blocks"])
    assert "Fault 3" in view._repr_html_()
    shown = invoke("fault", "show", tiny_run, 3)
    assert shown.exit_code == 0
    assert "tokens changed" in shown.stdout
    assert "there is no fault" in error_of(invoke("fault", "show", tiny_run, 10**8), 2)
    assert "holds no run" in error_of(invoke("fault", "show", tmp_path / "none", 1), 2)


def test_a_state_with_nan_has_no_class(tiny_run: Path) -> None:
    """argmax would name the NaN's own class, which on an image of that class looked as if nothing had happened."""
    rows = rows_of(tiny_run, "activation")
    broken = rows[rows.nonfinite & rows.logits.map(lambda logits: np.isnan(logits).any()) & (rows.target == "model")]
    seen = look_through(tiny_run, int(broken.iloc[0].fault_id))
    assert seen.blocks[-1].faulty_class == -1
    assert seen.takes_over is not None
