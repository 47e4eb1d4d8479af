"""Rates of a finished campaign by whatever its faults have in common, as a table: the summary's estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from testbed.campaign.summary.rates import RATE_DIMENSIONS, ModelRates, fault_models
from testbed.campaign.summary.tally import Tally, populations
from testbed.core.errors import UsageError
from testbed.core.outcome import MEASURES

UPPER_BOUNDS = ("high_95", "high_99")
ENDS = ("low", "high", *UPPER_BOUNDS)


def rate_table(
    results: Path,
    plan: Path,
    formats: Mapping[str, Mapping[str, str]],
    confidence: float,
    by: Sequence[str] | str = (),
    measure: str = "sdc1",
) -> pd.DataFrame:
    """One line per fault model and value of ``by``, in the order of the strata.

    formats: of the words of each target's sites. by: of "tier", "kind", "bit_class", "bit", "format", "block", "site"; none
    is one line per fault model, and "bit" is told within each number format. measure: "sdc1",
    "outside" or "nonfinite"; the attention module on its own has no classes, and no line for "sdc1". Columns: target,
    where, op, pattern, scope, those of ``by``, estimate, low, high (0 to 1), high_95, high_99 (one-sided upper bounds), n
    (rows) and faults. Raises UsageError for a dimension or measure that there is none of.
    """
    dimensions = checked_dimensions(by)
    if measure not in MEASURES:
        raise UsageError(f"there is no rate of {measure!r}; known: {', '.join(MEASURES)}")
    _, population = populations([plan])
    lines = [
        line
        for rates in fault_models(Tally.of(results), population, confidence)
        if measure != "sdc1" or rates.model.target == "model"
        for line in _lines(rates, dimensions, formats[rates.model.target], measure)
    ]
    estimated = ["estimate", "low", "high", *UPPER_BOUNDS, "n", "faults"]
    columns = ["target", "where", "op", "pattern", "scope", *dimensions, *estimated]
    table = pd.DataFrame(lines, columns=columns)
    return table.astype({name: "Int64" for name in dimensions if name in ("tier", "block", "bit")})


def _lines(
    rates: ModelRates, dimensions: Sequence[str], formats: Mapping[str, str], measure: str
) -> list[tuple[object, ...]]:
    return [
        (
            *rates.model.to_json().values(),
            *values,
            estimate.rate,
            estimate.low,
            estimate.high,
            estimate.high_95,
            estimate.high_99,
            estimate.n_rows,
            estimate.n_clusters,
        )
        for values, estimate in ((values, group.rates[measure]) for values, group in rates.by_all(dimensions, formats))
    ]


def checked_dimensions(by: Sequence[str] | str) -> tuple[str, ...]:
    """The columns that rates are told apart by; "format" goes with "bit". Raises UsageError for one that there is not."""
    dimensions = (by,) if isinstance(by, str) else tuple(by)
    for name in dimensions:
        if name not in (*RATE_DIMENSIONS, "format"):
            raise UsageError(f"rates are told by {', '.join(RATE_DIMENSIONS)} and format, not by {name!r}")
    if "bit" in dimensions and "format" not in dimensions:  # bit 7 is a sign in int8, and a mantissa bit in fp32
        at = dimensions.index("bit")
        dimensions = (*dimensions[:at], "format", *dimensions[at:])
    return dimensions


def measure_table(
    results: Path,
    plan: Path,
    formats: Mapping[str, Mapping[str, str]],
    confidence: float,
    by: Sequence[str] | str = (),
) -> pd.DataFrame:
    """`rate_table` of every measure side by side, from one reading of the rows.

    Columns: target, where, op, pattern, scope, those of ``by``, faults, n, and per measure its name (the rate), NAME_low,
    NAME_high, NAME_high_95 and NAME_high_99; missing for "sdc1" of the attention module on its own.
    """
    dimensions = checked_dimensions(by)
    _, population = populations([plan])
    records = []
    for rates in fault_models(Tally.of(results), population, confidence):
        for values, group in rates.by_all(dimensions, formats[rates.model.target]):
            outside = group.rates["outside"]
            record = {**rates.model.to_json(), **dict(zip(dimensions, values, strict=True))}
            record |= {"faults": outside.n_clusters, "n": outside.n_rows}
            for measure in MEASURES:
                rate = None if measure == "sdc1" and rates.model.target != "model" else group.rates[measure]
                record[measure] = None if rate is None else rate.rate
                record |= {f"{measure}_{end}": rate and getattr(rate, end) for end in ENDS}
            records.append(record)
    table = pd.DataFrame(records)
    numbers = [f"{measure}{end}" for measure in MEASURES for end in ("", *(f"_{end}" for end in ENDS))]
    return table.astype(
        {name: "Int64" for name in dimensions if name in ("tier", "block", "bit")} | dict.fromkeys(numbers, float)
    )


def with_weights(rows: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """All rows of a finished campaign, with the weights that an older one's table lacks. plan: columns fault_id and
    population."""
    if "weight" in rows:
        return rows
    population = rows["fault_id"].map(plan.set_index("fault_id")["population"])
    return rows.assign(weight=population / rows.groupby("stratum")["stratum"].transform("size"))
