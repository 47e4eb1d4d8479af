"""The stored rows of a finished campaign that the lens is about: faults in the whole model, one fault model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.analysis.survey import SurveyDesign
from testbed.campaign.files import PLAN, RESULTS
from testbed.campaign.results.reader import RESULT_TABLE, populations_of
from testbed.campaign.run import Run
from testbed.core.arrays import Bools, Float64s, Int64s
from testbed.core.errors import UsageError
from testbed.core.fault import FaultModel
from testbed.core.outcome import Outcome
from testbed.core.site import Where

BEHIND = -1
"""State of a fault behind the last one: in the final norm or the head, where the lens sees nothing."""
_BEHIND_NAMES = ("norm", "head")
_MODEL = list(FaultModel._fields)
_TEXTS = ("site", "kind", "bit_class", "image_id", "outcome")
_COLUMNS = [
    "fault_id",
    *_MODEL,
    "site",
    "kind",
    "block",
    "bit_class",
    "points",
    "stratum",
    "image_id",
    "outcome",
    "top1_faulty",
]
_INSIDE = (Outcome.IDENTICAL, Outcome.MASKED)


@dataclass(frozen=True, eq=False)
class LensRows:
    """Rows of one fault model, one per (fault, image): (n,) each.

    image: row of the named images; entry: the state that the fault first reaches, 0 the embedding, k + 1 the output of
    block k, `BEHIND` where it reaches none; block: None outside the blocks; population: of the row's stratum; top1: what
    the faulty engine said, -1 beside a NaN.
    """

    model: FaultModel
    fault_id: Int64s
    image: Int64s
    entry: Int64s
    kind: NDArray[np.object_]
    site: NDArray[np.object_]
    bit_class: NDArray[np.object_]
    outcome: NDArray[np.object_]
    stratum: Int64s
    population: Float64s
    stratum_rows: Int64s
    top1: Int64s

    def __len__(self) -> int:
        return len(self.fault_id)

    def take(self, which: NDArray) -> LensRows:
        """Some of the rows, by number or by truth; each stands for as much as before."""
        columns = [field.name for field in fields(self) if field.name != "model"]
        return replace(self, **{name: getattr(self, name)[which] for name in columns})

    @property
    def weight(self) -> Float64s:
        """What each row stands for: the stratum's population over its rows."""
        return self.population / self.stratum_rows

    @property
    def sdc1(self) -> Bools:
        return self.outcome == Outcome.SDC1

    @property
    def outside(self) -> Bools:
        """Outside the tolerance, or without an output."""
        return ~np.isin(self.outcome, _INSIDE)

    @cached_property
    def design(self) -> SurveyDesign:
        """How the rows were drawn, as the campaign's rates are made; of all rows of the fault model only."""
        alike = pd.DataFrame({"site": self.site, "bit_class": self.bit_class})
        pool = alike.groupby(["site", "bit_class"], sort=False).ngroup().to_numpy()
        return SurveyDesign(self.stratum, self.population, self.fault_id, pool)


def read_lens_rows(run: Run, where: Where | None = None, op: str | None = None) -> list[LensRows]:
    """Rows of each fault model of the whole model, in the order of the file.

    where, op: only these. Raises StaleArtefact for a campaign that is not finished or whose files were changed, UsageError
    where no row is left.
    """
    for file in (PLAN, RESULTS):
        run.folder.verify_file(file)
    wanted = [("target", "=", "model")]
    wanted += [("where", "=", where)] if where else []
    wanted += [("op", "=", op)] if op else []
    frame = RESULT_TABLE.read(run.folder / RESULTS, _COLUMNS, wanted).to_pandas()
    frame = frame[frame["op"].astype(str) != "identity"]
    if frame.empty:
        asked = " ".join(["faults", *([f"of op {op}"] if op else []), *([f"in {where}s"] if where else [])])
        raise UsageError(
            f"{run.path} has no stored {asked} of the whole model; `testbed campaign show {run.path}` says which it has"
        )
    frame["population"] = populations_of(frame["fault_id"].to_numpy(np.int64), run.folder / PLAN)
    frame["stratum_rows"] = frame.groupby("stratum")["fault_id"].transform("count")
    return list(_by_model(frame, run))


def _by_model(frame: pd.DataFrame, run: Run) -> Iterator[LensRows]:
    frame = frame.astype(dict.fromkeys((*_MODEL, *_TEXTS), str))
    images = run.workplace.images
    for key, rows in frame.groupby(_MODEL, sort=False):
        yield LensRows(
            model=FaultModel(*cast("tuple[Any, ...]", key)),
            fault_id=rows["fault_id"].to_numpy(np.int64),
            image=images.rows(rows["image_id"].tolist()),
            entry=np.array([entry_state(site) for site in rows["site"]], np.int64),
            kind=rows["kind"].to_numpy(object),
            site=rows["site"].to_numpy(object),
            bit_class=rows["bit_class"].to_numpy(object),
            outcome=rows["outcome"].to_numpy(object),
            stratum=rows["stratum"].to_numpy(np.int64),
            population=rows["population"].to_numpy(np.float64),
            stratum_rows=rows["stratum_rows"].to_numpy(np.int64),
            top1=rows["top1_faulty"].fillna(-1).to_numpy(np.int64),
        )


def entry_state(site: str) -> int:
    """The first state that a fault in this tensor can reach: 0 the embedding, k + 1 the output of block k, `BEHIND`."""
    first, *rest = site.split(".")
    if first == "block":
        return int(rest[0]) + 1
    return BEHIND if first in _BEHIND_NAMES else 0
