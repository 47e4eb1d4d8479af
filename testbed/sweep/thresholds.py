"""Result rows as a tolerance sweep sees them: the smallest absolute tolerance that lets each row pass, per rtol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from testbed.analysis.survey import SurveyDesign
from testbed.campaign.files import PLAN, RESULTS
from testbed.campaign.results.reader import RESULT_TABLE, list_values, populations_of
from testbed.core.fault import FaultModel
from testbed.core.folder.runfolder import RunFolder
from testbed.core.outcome import DUES, HOWS, Event, How, Outcome

_TEXT = (*FaultModel._fields, "site", "bit_class", "image_id", "outcome", "due", "evaluation")
_NUMBERS = ("fault_id", "stratum", "tier", "top1_golden", "top1_faulty", "error_bound")
_NONE = -2  # for a missing top-1; -1 is that of logits with a NaN
_INCREMENTAL = HOWS[How.INCREMENTAL]
ENDED = DUES[:2]  # no output at all: crash, hang


@dataclass(frozen=True)
class Thresholds:
    """Rows of one fault model: one target, place, operation, pattern and scope, judged against the engine golden.

    rows: one per (fault, image), columns of `FaultModel`, site, bit_class, fault_id, stratum, population, image_id, tier.
    atol: (n, rtols) the smallest absolute tolerance at which each output passes; a row is flagged at lower ones. A
    non-finite output, and none at all, has infinity: always flagged. error: (n,) how far off those may be, 0 where exact.
    sdc1: (n,) another top-1, whatever the tolerance, and neither DUE nor detected; None without classes. corrupted: (n,) not
    bit-identical, or no output, and not detected. ended: (n,) no output: crash or hang. detected: (n,) an alarm of the
    engine's own checks, which needs no tolerance.
    """

    rows: pd.DataFrame
    rtols: tuple[float, ...]
    atol: NDArray[np.float64]
    error: NDArray[np.float64]
    sdc1: NDArray[np.bool_] | None
    corrupted: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    detected: NDArray[np.bool_]

    @property
    def fault_model(self) -> FaultModel:
        return FaultModel._make(str(self.rows[name].iloc[0]) for name in FaultModel._fields)

    @cached_property
    def design(self) -> SurveyDesign:
        """Strata of one site and bit class (those of their first fault) lend each other their variance."""
        rows = self.rows
        alike = rows.groupby(["site", "bit_class"], observed=True, sort=False).ngroup().to_numpy()
        _, first, stratum = np.unique(rows["stratum"].to_numpy(), return_index=True, return_inverse=True)
        return SurveyDesign(stratum, rows["population"].to_numpy(), rows["fault_id"].to_numpy(), alike[first][stratum])

    @cached_property
    def is_exact(self) -> bool:
        return not self.error.any()

    @property
    def tier(self) -> NDArray[np.int64]:
        tiers: NDArray[np.int64] = self.rows["tier"].to_numpy(np.int64)
        return tiers

    @property
    def events(self) -> dict[Event, NDArray[np.bool_] | None]:
        """What is to be detected, by name."""
        return {"sdc1": self.sdc1, "any": self.corrupted}

    def flagged(self, rtol: float, atol: float) -> NDArray[np.bool_]:
        return self.atol[:, self.rtols.index(rtol)] > atol

    def undecided(self, rtol: float, atol: float) -> NDArray[np.bool_]:
        """Rows that exact evaluation could put on the other side of this tolerance."""
        if self.is_exact:
            return np.zeros(len(self.error), bool)
        with np.errstate(invalid="ignore"):
            distance = np.abs(self.atol[:, self.rtols.index(rtol)] - atol)
        return (self.error > 0) & (distance <= self.error)

    def take(self, which: NDArray[np.bool_]) -> Thresholds:
        sdc1 = None if self.sdc1 is None else self.sdc1[which]
        rows = self.rows[which].reset_index(drop=True)
        return Thresholds(
            rows,
            self.rtols,
            self.atol[which],
            self.error[which],
            sdc1,
            self.corrupted[which],
            self.ended[which],
            self.detected[which],
        )


def read_thresholds(folder: RunFolder, rtol_grid: Sequence[float], rtols: Sequence[float]) -> Iterator[Thresholds]:
    """One per fault model of a finished campaign, in plan order. rtol_grid: the spec's; rtols: those wanted of it.

    Raises StaleArtefact where the campaign is not finished or its files were changed.
    """
    for file in (PLAN, RESULTS):
        folder.verify_file(file)
    path = folder / RESULTS
    table = RESULT_TABLE.read(path, [*_TEXT, *_NUMBERS, "masking_atol"])
    frame = pd.DataFrame(
        {name: table.column(name).cast(pa.string()).to_pandas().astype("category") for name in _TEXT}
        | {name: pc.fill_null(table.column(name), _NONE).to_numpy() for name in _NUMBERS}
    )
    frame["population"] = populations_of(frame["fault_id"].to_numpy(np.int64), folder / PLAN)
    lists, grid = table.column("masking_atol"), list(rtol_grid)
    atol = np.stack([list_values(lists, grid.index(rtol), len(grid), path) for rtol in rtols], axis=1)
    for _, positions in frame.groupby(list(FaultModel._fields), observed=True, sort=False).indices.items():
        yield _thresholds(frame.iloc[positions].reset_index(drop=True), tuple(rtols), atol[positions])


def _thresholds(frame: pd.DataFrame, rtols: tuple[float, ...], atol: NDArray[np.float64]) -> Thresholds:
    outcome, due = frame["outcome"].astype(str).to_numpy(), frame["due"].astype(object).to_numpy()
    golden, faulty = frame["top1_golden"].to_numpy(), frame["top1_faulty"].to_numpy()
    incremental = frame["evaluation"].astype(str).to_numpy() == _INCREMENTAL
    noticed = outcome == Outcome.DETECTED
    changed = (faulty != golden) & (outcome != Outcome.DUE) & ~noticed
    return Thresholds(
        rows=frame.drop(columns=["outcome", "due", "evaluation", "top1_golden", "top1_faulty", "error_bound"]),
        rtols=rtols,
        atol=atol,
        error=np.where(incremental, frame["error_bound"].to_numpy(np.float64), 0.0),
        sdc1=None if (golden == _NONE).all() else changed,
        corrupted=(outcome != Outcome.IDENTICAL) & ~noticed,
        ended=np.isin(due, ENDED),
        detected=noticed,
    )
