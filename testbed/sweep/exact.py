"""Rows that were evaluated to within a bound, evaluated exactly where a sweep needs to know on which side they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.analysis.outputs.compare import Deviation
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.facts import ExactFacts
from testbed.campaign.files import PLAN, RESULTS, Files
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.table import read_plan
from testbed.campaign.results.reader import form_of
from testbed.core.folder.files import atomic_path, sha256_json
from testbed.sweep.injections import planned_injections
from testbed.sweep.noise import COMMAND, ProgressOpener
from testbed.sweep.thresholds import Thresholds

EXACT = "exact.parquet"
STAGE = "exact"
KEY = ["fault_id", "image_id"]
_TABLE = form_of(
    "rows evaluated exactly",
    f"run `{COMMAND} DIR` again",
    pa.schema([("fault_id", pa.int64()), ("image_id", pa.string()), ("masking_atol", pa.list_(pa.float64()))]),
    KEY,
)


def read_exact(workplace: Workplace) -> pd.DataFrame:
    """Reads fault_id, image_id, masking_atol (per rtol of the spec's grid) of the rows evaluated so far, for these
    results."""
    record = workplace.folder.manifest["stages"].get(STAGE)
    if record is None or record["inputs"].get("results") != workplace.folder.output_hash("execute", RESULTS):
        return pd.DataFrame({"fault_id": np.zeros(0, np.int64), "image_id": [], "masking_atol": []})
    workplace.folder.verify(STAGE)
    return _TABLE.read(workplace.folder / EXACT).to_pandas()


def evaluate_exactly(workplace: Workplace, wanted: pd.DataFrame, progress: ProgressOpener) -> pd.DataFrame:
    """`read_exact`, with the rows ``wanted`` (target, fault_id, image_id; activation faults) among it: those that are not
    there yet are run in the whole engine now."""
    known = read_exact(workplace)
    missing = wanted[~_keys(wanted).isin(_keys(known))]
    if not len(missing):
        return known
    for target in missing["target"].unique():
        workplace.folder.verify_file(Files(target).twin)
    made_from = {
        "results": workplace.folder.output_hash("execute", RESULTS),
        "rows": sha256_json(sorted([*_keys(known).tolist(), *_keys(missing).tolist()])),
    }

    def build() -> ExactFacts:
        with progress(len(missing), "rows evaluated exactly") as advance:
            parts = [known]
            for target, rows in missing.groupby("target", sort=False):
                parts.append(_evaluated(workplace, str(target), rows))
                advance(len(rows))
        table = pd.concat([part for part in parts if len(part)]).sort_values(KEY)
        with atomic_path(workplace.folder / EXACT) as temporary:
            pq.write_table(pa.Table.from_pandas(table, _TABLE.schema, preserve_index=False), temporary)
        return ExactFacts(rows=len(table))

    workplace.folder.stage(STAGE, made_from, [EXACT], build, command=COMMAND)
    return read_exact(workplace)


def _evaluated(workplace: Workplace, target: str, rows: pd.DataFrame) -> pd.DataFrame:
    plan = read_plan(workplace.folder / PLAN)
    chosen = np.flatnonzero(np.isin(plan.column("fault_id").to_numpy(), rows["fault_id"].to_numpy()))
    fault_id, injections = planned_injections(workplace, target, plan, chosen)
    image_id = np.array(workplace.images.ids, object)[injections.image]
    selected = np.flatnonzero(pd.MultiIndex.from_arrays([fault_id, image_id]).isin(_keys(rows)))
    engine = workplace.engine(target, "activation")
    evaluator, golden = WholeTwin(engine), engine.side.stored
    grid = workplace.spec.tolerance.rtol_grid
    atol = np.empty((len(selected), len(grid)))
    for evaluated in evaluator.evaluate(injections.take(selected)):
        deviation = Deviation(
            engine.judged(evaluated.outputs).values, golden[injections.image[selected[evaluated.rows]]]
        )
        atol[evaluated.rows] = np.stack([deviation.smallest_atol(rtol) for rtol in grid], axis=1)
    return pd.DataFrame({"fault_id": fault_id[selected], "image_id": image_id[selected], "masking_atol": list(atol)})


def straddling(rows: Thresholds, atols: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """(n,) rows that are undecided at one of these tolerances at least. atols: (ascending) of each of the rows' rtols."""
    undecided = np.zeros(len(rows.error), bool)
    for column, grid in enumerate(atols):
        low = np.searchsorted(grid, rows.atol[:, column] - rows.error, "left")
        undecided |= low < np.searchsorted(grid, rows.atol[:, column] + rows.error, "right")
    return undecided & (rows.error > 0)


def with_exact(rows: Thresholds, exact: pd.DataFrame, rtol_grid: Sequence[float]) -> Thresholds:
    """The rows, those that are in ``exact`` with the thresholds found there."""
    if rows.is_exact or not len(exact):
        return rows
    index = _keys(exact).get_indexer(_keys(rows.rows))
    columns = [list(rtol_grid).index(rtol) for rtol in rows.rtols]
    atol, error = rows.atol.copy(), rows.error.copy()
    here = index >= 0
    if here.any():
        atol[here] = np.stack(exact["masking_atol"].to_numpy()[index[here]].tolist())[:, columns]
        error[here] = 0.0
    return replace(rows, atol=atol, error=error)


def _keys(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([frame["fault_id"].to_numpy(np.int64), frame["image_id"].astype(object)])
