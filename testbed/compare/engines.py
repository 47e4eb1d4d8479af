"""The same faults in two engines of one precision: how far the outcomes agree, and where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pandas as pd

from testbed.analysis.agreement import Agreement, Kappa, agreement
from testbed.compare.engine_record import (
    AgreementRecord,
    DifferBy,
    Disagreement,
    DisagreementCause,
    Disagreements,
    EngineComparison,
    FaultPairing,
    KappaRecord,
    OutcomeMatrix,
)
from testbed.compare.record import CampaignComparison
from testbed.compare.side import Side, compared_rate, design_of
from testbed.core.errors import UsageError
from testbed.core.outcome import OUTCOMES, Outcome
from testbed.core.site import Target, Where

# What makes a fault of one campaign the same fault of another; their numbers may differ.
FAULT = (
    *("target", "where", "site", "index", "format", "op", "bit", "and_mask", "or_mask", "xor_mask", "points"),
    *("pattern", "scope", "image_id"),
)
INSIDE = "inside"  # the tolerance: identical or masked
_MERGED_NAME = [INSIDE if name in (Outcome.IDENTICAL, Outcome.MASKED) else str(name) for name in OUTCOMES]
MERGED = tuple(dict.fromkeys(_MERGED_NAME))
_MERGED_CODE = np.array([MERGED.index(name) for name in _MERGED_NAME])  # of each of OUTCOMES
DIFFER_BY: tuple[str, ...] = get_args(DifferBy)
_BOTH = (
    *("outcome", "faulty_value", "max_abs_diff", "atol", "masking_atol", "distance", "top1_faulty", "margin_faulty"),
)
METHOD = (
    "Outcomes weigh by the population of their stratum; images under one fault are a cluster. Cohen's kappa is of the"
    " partition in which identical and masked are one: whether an output inside the tolerance also keeps every bit is"
    " rounding, which no two compilers share; kappa of all outcomes tells them apart. Its interval is that of the"
    " disagreement, which no absence of events shrinks to nothing, divided by what chance would give, and widened by the"
    " uncertainty of that (linearised; Fleiss, Cohen & Everitt 1969). Same bits: the share of rows in which the struck"
    " element held the same bits in both engines before the fault. Distance: of the smallest atol that masks the fault,"
    " at the campaign's rtol, from the campaign's atol."
)


def compare_engines(a: Side, b: Side, shared: CampaignComparison) -> EngineComparison:
    """The comparison. shared: what every comparison tells. Raises UsageError where no fault is common."""
    pairs = _pairs(a, b)
    differing = _disagreements(pairs)
    return EngineComparison(
        **dict(shared),
        pairing=FaultPairing(
            by=list(FAULT),
            faults=int(pairs["fault_id"].nunique()),
            rows=len(pairs),
            only_a=len(a.rows) - len(pairs),
            only_b=len(b.rows) - len(pairs),
        ),
        method=METHOD,
        agreement=list(_agreements(pairs, a.spec.confidence)),
        disagreements=Disagreements(
            rows=len(differing),
            by_cause=_by_cause(differing),
            listed=[_disagreement(row) for row in differing.to_dict("records")],
        ),
    )


def _pairs(a: Side, b: Side) -> pd.DataFrame:
    """Rows of the same fault and image. A's columns have their names, B's end in ``_b``. Raises UsageError for none."""
    # Where images are drawn for each fault, a place may be drawn again, and meet an image again: with the same outcome.
    # A place may be drawn again where images are drawn for each fault, and meet an image again: with the same outcome.
    rows_a, rows_b = (
        rows.assign(nth=rows.groupby(list(FAULT), dropna=False, sort=False, observed=True).cumcount())
        for rows in (a.rows, b.rows)
    )
    pairs = rows_a.merge(rows_b, on=[*FAULT, "nth"], suffixes=("", "_b"), validate="one_to_one").drop(columns="nth")
    if not len(pairs):
        raise UsageError(
            f"{a.path} and {b.path} have no fault and image in common; run one spec (seed, tiers and [[faults]]) in both"
            " engines"
        )
    for name in ("", "_b"):
        pairs[f"code{name}"] = pairs[f"outcome{name}"].map(OUTCOMES.index).to_numpy(np.int64)
    return pairs


def _agreements(pairs: pd.DataFrame, confidence: float) -> Iterator[AgreementRecord]:
    """Per target and place: over all operations (op None), then for each."""
    key: Any  # pandas does not say what it groups by
    for key, target_place in pairs.groupby(["target", "where"], sort=False):
        ops = target_place["op"].unique()
        for op in (None, *ops) if len(ops) > 1 else ops:
            part = target_place if op is None else target_place[target_place["op"] == op]
            yield _agreement(key[0], key[1], op, part, confidence)


def _agreement(target: Target, where: Where, op: str | None, part: pd.DataFrame, confidence: float) -> AgreementRecord:
    design = design_of(part)
    codes_a, codes_b = part["code"].to_numpy(), part["code_b"].to_numpy()
    apart = agreement(codes_a, codes_b, OUTCOMES, design, confidence)
    merged = agreement(_MERGED_CODE[codes_a], _MERGED_CODE[codes_b], MERGED, design, confidence)
    same_word = part["golden_word"].to_numpy() == part["golden_word_b"].to_numpy()
    return AgreementRecord(
        target=target,
        where=where,
        op=op,
        faults=merged.agreement.n_clusters,
        rows=merged.agreement.n_rows,
        same_golden_word=float(same_word.mean()),
        disagreeing_rows=int(merged.counts.sum() - np.trace(merged.counts)),
        agreement=compared_rate(merged.agreement),
        kappa=_kappa(merged.kappa),
        matrix=_matrix(merged),
        agreement_all=compared_rate(apart.agreement),
        kappa_all=_kappa(apart.kappa),
        matrix_all=_matrix(apart),
    )


def _matrix(result: Agreement) -> OutcomeMatrix:
    """A down, B across; only the outcomes that were seen."""
    seen = np.flatnonzero(result.counts.sum(axis=0) + result.counts.sum(axis=1))
    return OutcomeMatrix(
        outcomes=[result.categories[code] for code in seen],
        rows=result.counts[np.ix_(seen, seen)].tolist(),
        shares=result.shares[np.ix_(seen, seen)].tolist(),
    )


def _kappa(kappa: Kappa) -> KappaRecord:
    return KappaRecord(value=kappa.value, low=kappa.low, high=kappa.high, undefined=kappa.undefined)


# ---- the disagreeing rows


def _disagreements(pairs: pd.DataFrame) -> pd.DataFrame:
    """Every row whose outcomes differ by more than identical against masked; within each kind of difference, the
    furthest from being a matter of rounding first."""
    rows = pairs[_MERGED_CODE[pairs["code"]] != _MERGED_CODE[pairs["code_b"]]].copy()
    for side in ("", "_b"):
        rows[f"distance{side}"] = (rows[f"masking_atol{side}"] - rows[f"atol{side}"]).abs()
    due, detected = (rows["outcome"].eq(o) | rows["outcome_b"].eq(o) for o in (Outcome.DUE, Outcome.DETECTED))
    unchanged, unchanged_b = (rows[f"golden_word{side}"] == rows[f"faulty_word{side}"] for side in ("", "_b"))
    inside, inside_b = (_MERGED_CODE[rows[code]] == 0 for code in ("code", "code_b"))
    kinds = [due, detected, unchanged != unchanged_b, rows["nonfinite"] != rows["nonfinite_b"], inside == inside_b]
    rows["differ_by"] = np.select(kinds, DIFFER_BY[:-1], DIFFER_BY[-1])
    margin = rows[["margin_faulty", "margin_faulty_b"]].max(axis=1)
    distance = rows[["distance", "distance_b"]].replace(np.inf, np.nan).max(axis=1)
    rows["far"] = np.where(rows["differ_by"] == "top1", margin, distance)
    rows["kind"] = rows["differ_by"].map(DIFFER_BY.index)
    rows = rows.sort_values(["kind", "far"], ascending=[True, False], kind="stable")
    named = {"fault_id": "fault_id_a", "fault_id_b": "fault_id_b"} | {
        f"{name}{side}": f"{name}{end}" for name in _BOTH for side, end in (("", "_a"), ("_b", "_b"))
    }
    columns = ["differ_by", "target", "where", "site", "index", "op", "bit", "image_id", "tier", "top1_golden"]
    return rows[[*columns, "margin_golden", *named]].rename(columns=named).reset_index(drop=True)


def _by_cause(differing: pd.DataFrame) -> list[DisagreementCause]:
    """Counts per target, place and kind of difference, and how far from the tolerance or from a tie the furthest is."""
    causes = []
    key: Any
    for key, part in differing.groupby(["target", "where", "differ_by"], sort=False):
        target, where, kind = key
        distance = part[["distance_a", "distance_b"]].replace(np.inf, np.nan).max().max()
        margin = part[["margin_faulty_a", "margin_faulty_b"]].max().max()
        causes.append(
            DisagreementCause(
                target=target,
                where=where,
                differ_by=kind,
                rows=len(part),
                faults=int(part["fault_id_a"].nunique()),
                largest_distance=_number(distance),
                largest_margin=_number(margin),
            )
        )
    return causes


def _disagreement(row: dict[Any, Any]) -> Disagreement:
    """None: a whole-word fault's bit, a top-1 without classes, and what has no finite value."""
    missing = {"bit"} if row["bit"] < 0 else set()
    if row["top1_golden"] < 0:
        missing |= {"top1_golden", "top1_faulty_a", "top1_faulty_b"}
    return Disagreement.model_validate({key: None if key in missing else _number(value) for key, value in row.items()})


def _number(value: Any) -> Any:
    if not isinstance(value, (float, np.floating)):
        return value
    return float(value) if np.isfinite(value) else None
