"""Faults read and followed together, against each one alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from testbed.campaign.run import Run
from testbed.sensitivity.campaign_lens.faults import read_stored_faults
from testbed.sensitivity.campaign_lens.rows import LensRows
from testbed.sensitivity.campaign_lens.sample import draw_sample
from testbed.sensitivity.campaign_lens.walk import FaultPath, LensWalker
from testbed.sensitivity.fault_lens import FaultLens, StateChange, TokenChange, lens_of
from testbed.sensitivity.fault_subject import open_fault
from testbed.sensitivity.stored_fault import read_stored_fault

K = 10


def flips_and_weights(rows_of_models: list[LensRows]) -> list[LensRows]:
    """Flips of activations and of weights: the other operations differ in their masks only."""
    return [rows for rows in rows_of_models if rows.model.op == "flip"]


def test_faults_are_those_that_are_read_alone(opened: Run, rows_of_models: list[LensRows]) -> None:
    for rows in flips_and_weights(rows_of_models):
        sample = draw_sample(rows, 12, seed=3).rows
        for fault in read_stored_faults(opened, sample):
            alone = read_stored_fault(opened, fault.fault_id, fault.image_id)
            assert replace(fault, words=(), stored_top1=None) == replace(alone, words=(), stored_top1=None)
            for mine, other in zip(fault.words, alone.words, strict=True):
                assert (mine.site, mine.format_name) == (other.site, other.format_name)
                for name in ("index", "golden", "faulty"):
                    assert np.array_equal(getattr(mine, name), getattr(other, name)), name
                assert np.array_equal(mine.masks, other.masks)


def test_paths_are_those_of_each_faults_lens(tiny_run: Path, opened: Run, rows_of_models: list[LensRows]) -> None:
    walker = None
    depths = set()
    for rows in flips_and_weights(rows_of_models):
        sample = draw_sample(rows, 16, seed=4).rows
        for number, fault in enumerate(read_stored_faults(opened, sample)):
            subject = open_fault(tiny_run, fault.fault_id, fault.image_id)
            walker = walker or LensWalker(subject.model)
            alone = lens_of("run", subject)
            entry = int(sample.entry[number])
            together = walker.lens(walker.golden_run(subject.pixels, fault.label), fault, entry)
            for mine, other in zip(together.blocks, alone.blocks, strict=True):
                assert replace(mine, tokens=()) == replace(other, tokens=())
                assert mine.touched == other.touched
            names = [state.after for state in alone.blocks]
            path = FaultPath.of(together, entry, walker.projection.classes)
            for name in ("absorbed", "takes_over", "repaired"):
                state = getattr(path, name)
                if name == "absorbed" and alone.enters is None:
                    assert (state, path.depth) == (entry, 0)
                elif name == "absorbed" or max(block.faulty_rank for block in alone.blocks) < K:
                    assert (None if state is None else names[state]) == getattr(alone, name)
            depths.add(path.depth)
    assert len(depths) > 1


def state(after: str, faulty: int, deviation: float | None, touched: bool = True) -> StateChange:
    tokens = (TokenChange(0, deviation, 3, faulty),) if touched else ()
    return StateChange(after, deviation, 3, faulty, 0, 0, tokens)


def lens(*states: StateChange) -> FaultLens:
    return FaultLens("run", None, 5, states)  # type: ignore[arg-type]


def test_depth_by_hand() -> None:
    before = state("embed", 3, 0.0, touched=False)
    late = lens(before, state("block.0", 3, 0.5), state("block.1", 3, 0.5), state("block.2", 3, 1e-4))
    assert (FaultPath.of(late, 1, K).absorbed, FaultPath.of(late, 1, K).depth) == (3, 2)
    never = lens(before, state("block.0", 3, 1e-4), state("block.1", 1, 0.5), state("block.2", 1, None))
    path = FaultPath.of(never, 1, K)
    assert (path.depth, path.takes_over, path.repaired, path.top1) == (None, 2, None, 1)
    repaired = lens(before, state("block.0", 1, 0.5), state("block.1", 1, 0.5), state("block.2", 3, 0.01))
    assert (FaultPath.of(repaired, 1, K).repaired, FaultPath.of(repaired, 1, K).depth) == (3, None)
    inside = lens(*(state(f"block.{n}", 3, 0.0, touched=False) for n in range(3)))
    assert FaultPath.of(inside, 2, K).depth == 0


def test_beside_a_nan_the_head_says_no_class() -> None:
    nan = StateChange("block.1", None, 0, -1, 0, K, (TokenChange(0, None, 0, -1),))
    path = FaultPath.of(lens(state("embed", 3, 0.0, touched=False), nan), 1, K)
    assert (path.takes_over, path.repaired, path.depth, path.top1) == (1, None, None, -1)
