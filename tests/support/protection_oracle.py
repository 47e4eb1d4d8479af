"""Rows of campaigns on plain and protected models, held against PyTorch: an oracle that shares no code with what it checks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from testbed.core.protected import PROTECTION, protected_file
from testbed.data import Split
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run
from tests.support.checks_by_hand import Place, alarm_of, copy_verdicts, finite_verdicts, guards, sum_verdicts, votes
from tests.support.commands import invoke
from tests.support.faulty_vit import Correction, FaultyPass, FaultyViT

ATOL = RTOL = 1e-3  # of the spec
NOISE = 5e-6  # of PyTorch against the engine, of the largest logit
PAIR = ["where", "site", "index", "and_mask", "or_mask", "xor_mask", "image_id"]
SPEC = """
name = "by-hand"
seed = 3
[model]
run = "{run}"
[tiers]
edges = [1.0]
images = [{images}]
[engine]
batch = 16
[tolerance]
atol = 1e-3
rtol = 1e-3
[gates]
zero_fault_rows = 32
[[faults]]
target = "model"
where = "activation"
sites = ["*", "!protect.*"]
ops = ["flip"]
bits = [14, 20, 26, 28, 29, 30, 31]
per_stratum = {draws}
[[faults]]
target = "model"
where = "weight"
sites = {weights}
ops = ["flip"]
bits = {weight_bits}
per_stratum = 1
"""
GUARDED = "*.attn.k,*.attn.v,*.mlp.gelu,*.mlp.residual,norm"
PARTS = "block.0.attn,block.1.mlp,block.2"
OPTIONS: dict[str, tuple[object, ...]] = {
    "range": ("--with", "range", "--where", GUARDED, "--margin", 1),
    "checksum": ("--with", "checksum"),
    "flag": ("--with", "duplicate", "--where", PARTS),
    "vote": ("--with", "duplicate", "--where", PARTS, "--vote"),
    "nonfinite": ("--with", "nonfinite"),
}


@dataclass
class Tally:
    """How many rows there were, and how many of them rounding decides, by what it decides."""

    rows: int = 0
    rounding: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class ProtectedByHand:
    """A protected model in PyTorch: what corrects, and whether a pass raises an alarm (None: rounding decides) in a run,
    beside the same without a fault."""

    corrections: Mapping[str, Correction]
    alarm: Callable[[FaultyPass, FaultyPass], bool | None]

    @classmethod
    def of(cls, name: str, vit: FaultyViT, places: list[Place]) -> ProtectedByHand:
        checks: dict[str, Callable[[FaultyPass, FaultyPass], Iterator[bool | None]]] = {
            "checksum": lambda run, clean: sum_verdicts(vit.golden, places, run, clean),
            "flag": lambda run, _: copy_verdicts(vit.golden, places, run),
            "nonfinite": lambda run, _: finite_verdicts(places, run),
        }
        corrections = {"range": lambda: guards(places), "vote": lambda: votes(vit.golden, places)}
        check = checks.get(name)
        return cls(
            corrections[name]() if name in corrections else {},
            (lambda run, clean: alarm_of(list(check(run, clean)))) if check is not None else lambda *_: False,
        )


NOTHING = ProtectedByHand({}, lambda *_: False)


@dataclass(frozen=True, eq=False)
class Oracle:
    """Images and a model of a run folder, in PyTorch."""

    vit: FaultyViT
    images: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, folder: Path) -> Oracle:
        run = open_model_run(folder)
        split: Split = dataset_of(run).test
        return cls(FaultyViT(run.model), _Images(split))

    def check(self, rows: pd.DataFrame, by_hand: ProtectedByHand) -> Tally:
        """Hold every row against PyTorch: alarm, outcome, top-1 and logits, unless rounding decides."""
        tally, golden = Tally(), {}
        for name in rows.image_id.unique():
            golden[name] = self.vit.run(self.images[name], corrections=by_hand.corrections)
            assert by_hand.alarm(golden[name], golden[name]) is False, name
        row: Any
        for row in rows.itertuples():
            tally.rows += 1
            run = self.vit.run(self.images[row.image_id], row, by_hand.corrections)
            clean = golden[row.image_id]
            self._check_row(row, run, clean.logits, by_hand.alarm(run, clean), tally)
        return tally

    def _check_row(self, row: Any, run: FaultyPass, golden: np.ndarray, alarm: bool | None, tally: Tally) -> None:
        stored = np.asarray(row.logits, np.float32)
        assert np.isfinite(run.logits).all() == np.isfinite(stored).all() == (not row.nonfinite), row
        noise = NOISE * max(1.0, float(np.abs(golden).max()))
        if not row.nonfinite:
            # a value that overflows when squared is rounded apart by the two layer norms
            loose = 1e-3 if abs(row.faulty_value) > 1e15 else noise
            np.testing.assert_allclose(stored, run.logits, rtol=loose, atol=loose, err_msg=str(row))
            noise = max(noise, float(np.abs(stored - run.logits).max()))
        top1, tied = top_class(run.logits, noise)
        tally.rounding["top-1"] += tied
        assert tied or row.top1_faulty == top1, row
        if alarm is None:
            tally.rounding["alarm"] += 1
        else:
            assert row.detected == alarm, row
        outcome = "detected" if row.detected else outcome_of(run.logits, golden, noise)
        if outcome is None:
            tally.rounding["outcome"] += 1
        else:
            assert {"identical": "masked"}.get(row.outcome, row.outcome) == outcome, row


class _Images(dict[str, np.ndarray]):
    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split, self.numbers = split, {name: number for number, name in enumerate(split.ids)}

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = self.split.batch([self.numbers[name]])
        return self[name]


def top_class(logits: np.ndarray, noise: float) -> tuple[int, bool]:
    """The top-1, -1 of a NaN, and whether noise could change it."""
    if np.isnan(logits).any():
        return -1, False
    first, second = np.sort(logits)[::-1][:2]
    return int(logits.argmax()), bool(second >= first - 2 * noise)


def outcome_of(logits: np.ndarray, golden: np.ndarray, noise: float) -> str | None:
    """masked (or identical), sdc_tolerable or sdc1; None where noise decides."""
    top1, tied = top_class(logits, noise)
    with np.errstate(all="ignore"):
        over = np.abs(logits - golden) - (ATOL + RTOL * np.abs(golden))
    worst = np.inf if np.isnan(over).any() else float(over.max())
    if abs(worst) <= 2 * noise:
        return None
    if worst < 0:
        return "masked"
    return None if tied else "sdc_tolerable" if top1 == golden.argmax() else "sdc1"


def places_of(run: Path) -> list[Place]:
    """What the metadata of a protected file says of its one pass."""
    proto = onnx.load(run / protected_file("fp32"))
    (done,) = json.loads(next(entry.value for entry in proto.metadata_props if entry.key == PROTECTION))
    places: list[Place] = done["places"]
    return places


def campaign_rows(run: Path, folder: Path, **values: Any) -> pd.DataFrame:
    """The rows of a campaign on a model."""
    spec = folder.with_suffix(".toml")
    spec.write_text(SPEC.format(run=run, **values))
    result = invoke("campaign", "run", spec, "--run", folder, "--workers", 0)
    assert result.exit_code == 0, result.output
    return pd.read_parquet(folder / "results.parquet")
