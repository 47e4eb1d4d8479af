"""Rates of a finished campaign by whatever its faults have in common, as a table: the summary's estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from testbed.campaign.summary.rates import DIMENSIONS, ModelRates, fault_models
from testbed.campaign.summary.tally import MEASURES, Tally, populations
from testbed.core.errors import UsageError


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
    where, op, pattern, scope, those of ``by``, estimate, low, high (0 to 1), n (rows) and faults. Raises UsageError for a
    dimension or measure that there is none of.
    """
    dimensions = (by,) if isinstance(by, str) else tuple(by)
    for name in dimensions:
        if name not in (*DIMENSIONS, "format"):
            raise UsageError(f"rates are told by {', '.join(DIMENSIONS)} and format, not by {name!r}")
    if "bit" in dimensions and "format" not in dimensions:  # bit 7 is a sign in int8, and a mantissa bit in fp32
        at = dimensions.index("bit")
        dimensions = (*dimensions[:at], "format", *dimensions[at:])
    if measure not in MEASURES:
        raise UsageError(f"there is no rate of {measure!r}; known: {', '.join(MEASURES)}")
    _, population = populations([plan])
    lines = [
        line
        for rates in fault_models(Tally.of(results), population, confidence)
        if measure != "sdc1" or rates.model.target == "model"
        for line in _lines(rates, dimensions, formats[rates.model.target], measure)
    ]
    columns = ["target", "where", "op", "pattern", "scope", *dimensions, "estimate", "low", "high", "n", "faults"]
    table = pd.DataFrame(lines, columns=columns)
    return table.astype({name: "Int64" for name in dimensions if name in ("tier", "block", "bit")})


def _lines(
    rates: ModelRates, dimensions: Sequence[str], formats: Mapping[str, str], measure: str
) -> list[tuple[object, ...]]:
    return [
        (*rates.model.told().values(), *values, found.rate, found.low, found.high, found.n_rows, found.n_clusters)
        for values, found in ((values, group.rates[measure]) for values, group in rates.by_all(dimensions, formats))
    ]


def with_weights(rows: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """All rows of a finished campaign, with the weights that an older one's table lacks. plan: columns fault_id and
    population."""
    if "weight" in rows:
        return rows
    population = rows["fault_id"].map(plan.set_index("fault_id")["population"])
    return rows.assign(weight=population / rows.groupby("stratum")["stratum"].transform("size"))
