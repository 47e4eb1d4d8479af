"""One model in two precisions: rates per role of the struck bit, which number formats share though their bits differ in
number and order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.analysis.agreement import correlation, difference
from testbed.analysis.survey import Estimate
from testbed.compare.precision_record import (
    ComparedMeasures,
    ComparedSides,
    MeasureEvents,
    PairedRates,
    PairEvents,
    PrecisionComparison,
    RateDifference,
    Role,
    RoleRecord,
    SampleSize,
    SitePairing,
)
from testbed.compare.record import CampaignComparison
from testbed.compare.side import Side, compared_rate, design_of
from testbed.core.errors import UsageError
from testbed.core.formats import format_named
from testbed.core.outcome import CHECK_MEASURES, MEASURES, NOT_OUTSIDE, Outcome

SITE = ("target", "where", "site")
PLACE = (*SITE, "op", "index", "image_id", "role")
ALL: Role = "all"
_MEASURES = (*MEASURES, *CHECK_MEASURES)
ROLES: tuple[Role, ...] = get_args(Role)  # ALL first
RatesByMeasure = dict[str, Estimate]  # per measure
METHOD = (
    "Rates are of the sites and images that both campaigns have, by the number format of the site on either side, and"
    " weigh by the population of their stratum; images under one fault are a cluster. The two sides are taken as"
    " independent samples, and their difference (A - B) has the square-and-add interval (Newcombe 1998); draws that"
    " coincide make it too wide, never too narrow. Paired: only faults of one site, index, image, operation and role on"
    " both sides, the highest bit of the role first where there are several; weighed as A's; their difference uses the"
    " correlation of the two estimates. Pairs need not cover a role's bits: which they do is listed."
)


def compare_roles(a: Side, b: Side, shared: CampaignComparison) -> PrecisionComparison:
    """Rates per target, place, operation, pair of formats and bit role. shared: what every comparison tells. Raises
    UsageError where nothing is common."""
    rows_a, rows_b = _with_roles(a.rows), _with_roles(b.rows)
    common = _formats(rows_a).merge(_formats(rows_b), on=list(SITE), suffixes=("_a", "_b"))
    images = set(a.images) & set(b.images)
    if not len(common) or not images:
        what = "image" if len(common) else "struck site"
        raise UsageError(f"{a.path} and {b.path} have no {what} in common; run one spec in both precisions")
    marked_a, marked_b = (_marked(rows, common, images) for rows in (rows_a, rows_b))
    pairs = _pairs(marked_a, marked_b)
    return PrecisionComparison(
        **dict(shared),
        pairing=SitePairing(
            by=list(PLACE),
            sites=len(common),
            sites_only_a=len(_formats(rows_a)) - len(common),
            sites_only_b=len(_formats(rows_b)) - len(common),
            faults=int(pairs["fault_id"].nunique()),
            rows=len(pairs),
        ),
        method=METHOD,
        roles=list(_roles(marked_a, marked_b, pairs, a.spec.confidence)),
    )


def _with_roles(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds ``role`` and one 0/1 column per measure."""
    faulty = rows[["format", "bit"]].drop_duplicates()
    role = {
        (name, bit): "word" if bit < 0 else format_named(name).role(int(bit))
        for name, bit in faulty.itertuples(index=False)
    }
    return rows.assign(
        role=[role[key] for key in zip(rows["format"], rows["bit"], strict=True)],
        sdc1=rows["outcome"].eq(Outcome.SDC1).astype(np.int8),
        outside=(~rows["outcome"].isin(NOT_OUTSIDE)).astype(np.int8),
        nonfinite=rows["nonfinite"].astype(np.int8),
        detected=rows["outcome"].eq(Outcome.DETECTED).astype(np.int8),
    )


def _formats(rows: pd.DataFrame) -> pd.DataFrame:
    """The number format of every struck site."""
    return rows[[*SITE, "format"]].drop_duplicates()


def _marked(rows: pd.DataFrame, common: pd.DataFrame, images: set[str]) -> pd.DataFrame:
    """Adds the formats of both sides; ``common`` says which rows are of a site and image of both. Rows of whole strata
    are kept for the design, of which the common ones are a part."""
    marked = rows.merge(common, on=list(SITE), how="left")
    marked["common"] = marked["format_a"].notna() & marked["image_id"].isin(images)
    return marked


def _pairs(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Common rows of one site, index, image, operation and role; A's columns have their names, B's end in ``_b``."""
    numbered = []
    for rows in (a, b):
        ranked = rows[rows["common"]].sort_values("bit", ascending=False, kind="stable")
        numbered.append(ranked.assign(nth=ranked.groupby(list(PLACE), sort=False).cumcount()))
    rows_a, rows_b = numbered
    columns = [*PLACE, "nth", "bit", *_MEASURES]
    return rows_a.merge(rows_b[columns], on=[*PLACE, "nth"], suffixes=("", "_b"), validate="one_to_one")


def _roles(a: pd.DataFrame, b: pd.DataFrame, pairs: pd.DataFrame, confidence: float) -> Iterator[RoleRecord]:
    target_place = ["target", "where", "op"]
    kinds = [*target_place, "format_a", "format_b"]
    rates_of = [
        {key: _rates(part, confidence) for key, part in rows.groupby(target_place, sort=False)} for rows in (a, b)
    ]
    pairs_of = dict(iter(pairs.groupby([*kinds, "role"], sort=False)))
    both = pd.concat([rows.loc[rows["common"], kinds] for rows in (a, b)]).drop_duplicates()
    for key in both.itertuples(index=False, name=None):
        target_key, formats = key[:3], key[3:]
        sides = [rates.get(target_key, {}) for rates in rates_of]
        for role in ROLES:
            rates_a, rates_b = (side.get((*formats, role)) for side in sides)
            if (not rates_a and not rates_b) or (role == ALL and target_key[2].startswith("random")):
                continue  # a whole word is its only role
            yield RoleRecord(
                **dict(zip(kinds, key, strict=True)),
                role=role,
                a=_sample_size(rates_a),
                b=_sample_size(rates_b),
                rates=_measures(rates_a, rates_b, target_key[0] == "model"),
                paired=_paired(pairs_of.get((*key, role)), confidence, target_key[0] == "model"),
            )


def _rates(rows: pd.DataFrame, confidence: float) -> dict[tuple[str, str, str], RatesByMeasure]:
    """(format of A, format of B, role) -> measure -> rate, of the common rows of one target, place and operation."""
    design = design_of(rows)
    rates: dict[tuple[str, str, str], RatesByMeasure] = {}
    for roles in (rows["role"], pd.Series(ALL, rows.index)):
        names = list(zip(rows["format_a"], rows["format_b"], roles, strict=True))
        codes, labels = pd.factorize(pd.Series(names).where(rows["common"].to_numpy(), None))
        domains = design.domains(codes)
        estimates = {measure: domains.estimates(rows[measure].to_numpy(), confidence) for measure in _MEASURES}
        for code, label in enumerate(labels):
            rates[label] = {measure: estimates[measure][code] for measure in _MEASURES}
    return rates


def _sample_size(rates: RatesByMeasure | None) -> SampleSize | None:
    return None if rates is None else SampleSize(faults=rates["outside"].n_clusters, rows=rates["outside"].n_rows)


def _measures(
    a: RatesByMeasure | None, b: RatesByMeasure | None, has_classes: bool, joint: dict[str, float] | None = None
) -> ComparedMeasures:
    """Both rates, and their difference where both exist. joint: correlation of the two sides' rates."""

    def sides(measure: str) -> ComparedSides:
        rate_a, rate_b = (None if rates is None else rates[measure] for rates in (a, b))
        gap = None
        if rate_a and rate_b:
            value, low, high = difference(rate_a, rate_b, (joint or {}).get(measure, 0.0))
            gap = RateDifference(value=value, low=low, high=high)
        return ComparedSides(
            a=None if rate_a is None else compared_rate(rate_a),
            b=None if rate_b is None else compared_rate(rate_b),
            difference=gap,
        )

    detected = sides("detected")
    alarms = any(side is not None and side.rate > 0 for side in (detected.a, detected.b))
    return ComparedMeasures(
        sdc1=sides("sdc1") if has_classes else None,
        outside=sides("outside"),
        nonfinite=sides("nonfinite"),
        **({"detected": detected} if alarms else {}),
    )


def _paired(pairs: pd.DataFrame | None, confidence: float, has_classes: bool) -> PairedRates | None:
    if pairs is None:
        return None
    design = design_of(pairs)
    columns: list[dict[str, NDArray]] = [{m: pairs[f"{m}{end}"].to_numpy() for m in _MEASURES} for end in ("", "_b")]
    a, b = ({m: design.estimate(y, confidence) for m, y in side.items()} for side in columns)
    joint = {m: correlation(columns[0][m], columns[1][m], design) for m in _MEASURES}
    events = {m: _events(columns[0][m], columns[1][m]) for m in MEASURES if m != "sdc1" or has_classes}
    return PairedRates(
        faults=a["outside"].n_clusters,
        rows=len(pairs),
        bits_a=_bits(pairs["bit"]),
        bits_b=_bits(pairs["bit_b"]),
        rates=_measures(a, b, has_classes, joint),
        events=MeasureEvents(**events),
    )


def _events(a: NDArray, b: NDArray) -> PairEvents:
    """Rows with the event on both sides, on one, on neither."""
    both, only_a, only_b = (int(which.sum()) for which in (a & b, a & ~b & 1, b & ~a & 1))
    return PairEvents(both=both, only_a=only_a, only_b=only_b, neither=len(a) - both - only_a - only_b)


def _bits(bits: pd.Series) -> list[int]:
    return sorted(int(bit) for bit in bits.unique() if bit >= 0)
