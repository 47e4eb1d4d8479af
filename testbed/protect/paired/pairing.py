"""Rows of two campaigns that are of the same fault and image: the same elements of the same sites, whatever was drawn how.

Numbers of faults, strata and draws differ between campaigns; what is done to the model does not. A fault of several
words is the same one where all of them are, in whichever order an engine computes their elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from testbed.campaign.files import PLAN
from testbed.campaign.plan.points import points_path, read_points
from testbed.core.arrays import Int64s, Words64
from testbed.core.errors import UsageError
from testbed.core.protected import PREFIX
from testbed.protect.paired.record import ElementPairing, SideName, UnmatchedRows
from testbed.protect.paired.sides import PairedSide, PairedSides

_WORD = ("site", "index", "and_mask", "or_mask", "xor_mask")
FAULT = ("target", "where", "format", "op", "pattern", "scope", "bit", "points", *_WORD)
_OF_PROTECTED = (
    *("outcome", "mismatches", "recovered"),
    *("top1_faulty", "top1_golden", "nonfinite", "max_abs_diff", "fault_id"),
)


@dataclass(frozen=True, eq=False)
class PairedRows:
    """Attributes: pairs: rows of the plain campaign that pair, the partner's columns ending in ``_b``; checkers: rows of the
    protected campaign in what protection added; pairing: how many there are."""

    pairs: pd.DataFrame
    checkers: pd.DataFrame
    pairing: ElementPairing


def pair_rows(sides: PairedSides) -> PairedRows:
    """Pair the rows. Raises UsageError where no fault is common."""
    plain, protected = sides.plain.judged_rows, sides.protected.judged_rows
    numbers = _same_faults(_faults(sides.plain), _faults(sides.protected))
    plain, protected = (
        rows.assign(fault=number.loc[rows["fault_id"]].to_numpy())
        for rows, number in zip((plain, protected), numbers, strict=True)
    )
    is_checker = protected["site"].str.startswith(PREFIX)
    checkers, others = protected[is_checker], protected[~is_checker]
    # A fault that was drawn twice has the same outcome twice.
    partners = others.drop_duplicates(["fault", "image_id"])[["fault", "image_id", *_OF_PROTECTED]]
    renamed = partners.rename(columns={name: f"{name}_b" for name in _OF_PROTECTED})
    joined = plain.merge(renamed, on=["fault", "image_id"], how="left", validate="many_to_one", indicator=True)
    has_partner = joined["_merge"].eq("both")
    pairs = joined[has_partner].drop(columns="_merge")
    if not len(pairs):
        raise UsageError(
            f"{sides.plain.path} and {sides.protected.path} have no fault and image in common; run one spec (seed, tiers and"
            " [[faults]]) on the plain and on the protected model"
        )
    keys = pd.MultiIndex.from_frame(plain[["fault", "image_id"]])
    lone = others[~pd.MultiIndex.from_frame(others[["fault", "image_id"]]).isin(keys)]
    pairing = ElementPairing(
        faults=int(pairs["fault_id"].nunique()),
        rows=len(pairs),
        unmatched=[*_unmatched("plain", joined[~has_partner]), *_unmatched("protected", lone)],
    )
    whole = {name: plain[name.removesuffix("_b")].dtype for name in renamed.columns if name.endswith("_b")}
    return PairedRows(pairs.astype(whole).reset_index(drop=True), checkers.reset_index(drop=True), pairing)


def _unmatched(side: SideName, rows: pd.DataFrame) -> list[UnmatchedRows]:
    counts = rows.groupby("kind", sort=True)["fault_id"].agg(["size", "nunique"])
    return [
        UnmatchedRows(side=side, kind=str(kind), rows=int(size), faults=int(faults))
        for kind, size, faults in counts.itertuples()
    ]


def _faults(side: PairedSide) -> pd.DataFrame:
    """(faults,) what each does, by its number. Of several words: a number of all of them in place of the first."""
    faults = side.judged_rows.drop_duplicates("fault_id").set_index("fault_id")[list(FAULT)].sort_index()
    several = faults.index[faults["points"] > 1].to_numpy(np.int64)
    faults = faults.assign(words=np.zeros(len(faults), np.uint64))
    if len(several):
        faults.loc[several, "words"] = _words(side, several)
        faults.loc[several, "site"] = ""
        faults.loc[several, [name for name in _WORD if name != "site"]] = 0
    return faults


def _words(side: PairedSide, fault_ids: Int64s) -> Words64:
    """(faults,) a 64-bit hash of all words of each fault. fault_ids: ascending."""
    plan = side.folder / PLAN
    points = read_points(points_path(plan), fault_ids)
    columns = {"site": points.column("site").cast(pa.string()).to_pandas()}
    columns |= {name: points.column(name).to_pandas() for name in ("fault_id", "point", *_WORD[1:])}
    words = pd.DataFrame(columns).sort_values(["fault_id", "site", "index", "point"], kind="stable")
    words["place"] = words.groupby("fault_id").cumcount()
    hashed = pd.util.hash_pandas_object(words[["place", *_WORD]], index=False)
    summed = pd.Series(hashed.to_numpy(np.uint64)).groupby(words["fault_id"].to_numpy()).sum()  # modulo 2 ** 64
    numbers: Words64 = summed.to_numpy(np.uint64)  # ascending, as they are
    return numbers


def _same_faults(plain: pd.DataFrame, protected: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """A number of each fault, the same for the same fault of both campaigns."""
    both = pd.concat([plain, protected], ignore_index=True)
    number = both.groupby([*FAULT, "words"], sort=False, dropna=False).ngroup().to_numpy()
    return pd.Series(number[: len(plain)], plain.index), pd.Series(number[len(plain) :], protected.index)
