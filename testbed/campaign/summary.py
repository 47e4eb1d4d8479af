"""results.parquet -> summary.json: counts per stratum, and population-weighted rates with intervals.

A rate never mixes fault models: every one is of one target, one place and one operation. "sdc1" is a changed top-1,
"outside"
any output outside the tolerance (or none at all), "nonfinite" a NaN or infinity in the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from testbed.analysis.survey import Domains, Estimate, SurveyDesign
from testbed.campaign.files import PLAN
from testbed.campaign.plan import read_plan
from testbed.campaign.prepare import Preparation
from testbed.core.outcome import OUTCOMES, Outcome
from testbed.core.schema import SCHEMA_VERSION

SUMMARY = "summary.json"
DIMENSIONS = ("tier", "kind", "bit_class", "bit", "block", "site")
_COLUMNS = [
    "fault_id",
    "target",
    "where",
    "site",
    "kind",
    "block",
    "op",
    "bit",
    "bit_class",
    "stratum",
    "tier",
    "outcome",
]
_INSIDE = (Outcome.IDENTICAL, Outcome.MASKED)


def summarise(preparation: Preparation, engines: Sequence[Mapping[str, Any]], results: str) -> dict[str, Any]:
    """The summary of a finished campaign, JSON-ready. results: file name of the rows."""
    spec, folder = preparation.spec, preparation.folder
    rows = _rows(folder.path / results)
    population = _population(folder / PLAN)
    stages = folder.manifest["stages"]
    tuned = stages["tune"]["facts"]
    gates, execute = stages["gates"]["facts"], stages["execute"]["facts"]
    strata, marginals = [], []
    for (target, where, op), part in rows.groupby(["target", "where", "op"], sort=False, observed=True):
        design = Design(part, population, spec.confidence)
        strata += [{"target": target, "where": where, "op": op, **cell} for cell in design.strata(target == "model")]
        marginals += [{"target": target, "where": where, "op": op, **m} for m in design.marginals(target == "model")]
    main = engines[0]
    return {
        "name": spec.name,
        "schema_version": SCHEMA_VERSION,
        "seed": spec.seed,
        "faults": len(population),
        "rows": len(rows),
        "model": {
            **preparation.subject.described(folder),
            "test_accuracy": preparation.accuracy,
            "test_images": len(preparation.dataset.test),
        },
        "data": {"name": preparation.dataset.name, "classes": list(preparation.dataset.classes)},
        "tiers": _tiers(preparation),
        "engine": {
            "backend": spec.engine.backend,
            "hash": main["hash"],
            "deployment_id": main["deployment_id"],
            "precision": spec.engine.precision,
            "batch": tuned["batch"],
            "threads": tuned["threads"],
        },
        "engines": list(engines),
        "zero_fault": gates["zero_fault"],
        "drift": gates["drift"],
        "parity": gates["parity"],
        "tolerance": {
            "atol": list(spec.tolerance.per_tier(len(spec.tiers.edges))),
            "rtol": spec.tolerance.rtol,
            "rtol_grid": list(spec.tolerance.rtol_grid),
        },
        "confidence": spec.confidence,
        "detector": spec.detector,
        "strata": strata,
        "marginals": marginals,
        "timing": [{"stage": name, "seconds": record["seconds"]} for name, record in stages.items()],
        "wall_seconds": execute["wall_seconds"],
        "engine_seconds": execute["engine_seconds"],
        "injections_per_second": round(execute["rows_this_process"] / max(execute["wall_seconds"], 1e-9), 1),
        "statement": _statement(preparation),
    }


def _rows(path: Any) -> pd.DataFrame:
    frame = pq.read_table(path, columns=[*_COLUMNS, "nonfinite"]).to_pandas()
    frame["nonfinite"] = frame["nonfinite"].fillna(False).astype(bool)
    return frame


def _population(path: Any) -> pd.Series:
    """Population of each fault's stratum, by fault_id."""
    plan = read_plan(path).select(["fault_id", "population"]).to_pandas()
    return plan.set_index("fault_id")["population"]


class Design:
    """The rows of one target, place and operation, as a stratified sample of faults."""

    def __init__(self, rows: pd.DataFrame, population: pd.Series, confidence: float) -> None:
        self.rows, self.confidence = rows.reset_index(drop=True), confidence
        weight = population.loc[self.rows["fault_id"]].to_numpy()
        # strata of one site and bit class lend each other their variance where only one fault was drawn from each
        alike = self.rows.groupby(["site", "bit_class"], observed=True, sort=False).ngroup().to_numpy()
        self.survey = SurveyDesign(self.rows["stratum"].to_numpy(), weight, self.rows["fault_id"].to_numpy(), alike)
        outcome = self.rows["outcome"].astype(str).to_numpy()
        self.outcome = outcome
        self.measures = {
            "sdc1": outcome == Outcome.SDC1,
            "outside": ~np.isin(outcome, _INSIDE),
            "nonfinite": self.rows["nonfinite"].to_numpy(),
        }

    def marginals(self, has_classes: bool) -> Iterator[dict[str, Any]]:
        """Rates over everything, then by each dimension's values."""
        everything = np.zeros(len(self.rows), np.int8)
        yield from self._by("all", self.survey.domains(everything), [None], has_classes)
        for name in DIMENSIONS:
            codes, values = pd.factorize(self.rows[name], use_na_sentinel=True)
            if (codes < 0).all():
                continue  # a whole-word fault has no bit, some sites no block
            domains = self.survey.domains(codes)
            yield from self._by(name, domains, [_plain(value) for value in values], has_classes)

    def _by(self, by: str, domains: Domains, values: list[Any], has_classes: bool) -> Iterator[dict[str, Any]]:
        rates = {name: domains.estimates(y, self.confidence) for name, y in self.measures.items()}
        for code, value in enumerate(values):
            some = rates["outside"][code]
            told: dict[str, Any] = {name: _rate(found[code]) for name, found in rates.items()}
            if not has_classes:
                told["sdc1"] = None
            yield {"by": by, "value": value, "faults": some.n_clusters, "n": some.n_rows, "rates": told}

    def strata(self, has_classes: bool) -> Iterator[dict[str, Any]]:
        """Counts of the outcomes, and the SDC-1 rate, per tier, site and bit class."""
        keys = ["tier", "site", "bit_class"]
        groups = self.rows.groupby(keys, observed=True, sort=False)
        cell = groups.ngroup().to_numpy()
        first = self.rows.drop_duplicates(keys).set_index(cell[~self.rows.duplicated(keys)])
        counts = {name: np.bincount(cell, self.outcome == name, len(first)).astype(int) for name in OUTCOMES}
        nonfinite = np.bincount(cell, self.measures["nonfinite"], len(first)).astype(int)
        domains = self.survey.domains(cell)
        sdc1 = domains.estimates(self.measures["sdc1"], self.confidence)
        outside = domains.estimates(self.measures["outside"], self.confidence)
        for code, (_, head) in enumerate(first.sort_index().iterrows()):
            found, out = sdc1[code], outside[code]
            yield {
                "tier": int(head["tier"]),
                "kind": str(head["kind"]),
                "site": str(head["site"]),
                "bit_class": str(head["bit_class"]),
                "n": found.n_rows,
                "faults": found.n_clusters,
                **{name: int(count[code]) for name, count in counts.items()},
                "nonfinite": int(nonfinite[code]),
                "sdc1_rate": _rounded(found.rate) if has_classes else None,
                "sdc1_low": _rounded(found.low) if has_classes else None,
                "sdc1_high": _rounded(found.high) if has_classes else None,
                "outside_rate": _rounded(out.rate),
                "outside_low": _rounded(out.low),
                "outside_high": _rounded(out.high),
            }


def _rate(found: Estimate) -> dict[str, float]:
    return {"rate": _rounded(found.rate), "low": _rounded(found.low), "high": _rounded(found.high)}


def _rounded(share: float) -> float:
    """Nine decimals: far below any interval's width, and free of the noise of summation."""
    return round(share, 9)


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str) else int(value)


def _tiers(preparation: Preparation) -> list[dict[str, Any]]:
    tiers, spec = preparation.tiers, preparation.spec.tiers
    lows = (0.0, *tiers.edges.edges)
    return [
        {
            "tier": number,
            "low": lows[number],
            "high": lows[number + 1],
            "available": len(positions),
            "images": wanted,
            "thin": wanted < spec.thin,
        }
        for number, (positions, wanted) in enumerate(zip(tiers.positions, spec.images, strict=True))
    ]


def _statement(preparation: Preparation) -> str:
    images, tiers = len(preparation.images), len(preparation.spec.tiers.edges)
    own = preparation.spec.model.onnx is not None
    return (
        f"Rates speak of the {images} named images in the run folder ({tiers} confidence tiers, correctly classified"
        " test images), of all elements and bits of the named sites, and of one fault model at a time; elements, bits"
        " and images weigh equally. They do not speak of other images."
    ) + (
        " The golden is the ONNX file's own, without a fault: nothing else vouches for what it computes." if own else ""
    )
