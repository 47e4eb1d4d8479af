"""One small campaign in two engines: the same faults, outcome against outcome."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.campaign.pipeline import RESULTS, run_campaign
from testbed.campaign.spec import CampaignSpec, parse_spec

from .common import Section, Setting, require

SPEC = Path(__file__).parents[2] / "campaigns" / "digits.toml"
FAULT = ["target", "where", "site", "index", "op", "bit", "image_id"]
INSIDE = {"identical": "inside", "masked": "inside"}  # the tolerance: which of the two it is, rounding decides
LEAST_AGREEMENT = 0.98  # of two engines; outputs right at the tolerance may fall on either side of it
_LISTED = 50
_TINY = {  # hardly trained, in a second
    "overrides": {"heads": [2], "mlp": [32], "width": 16, "head_width": 8},
    "training": {"epochs": 6, "learning_rate": 0.01, "input_noise": 0.0, "label_smoothing": 0.0},
}


def concordance(setting: Setting) -> Section:
    """Outcomes of ort-cuda against ort-cpu; without a GPU, of ort-cpu against itself, where each must be the same."""
    backends = ("ort-cpu", "ort-cuda" if setting.gpu else "ort-cpu")
    for backend in backends:
        require(backend)
    sides = [_rows(setting, backend, setting.folder / f"{number}-{backend}") for number, backend in enumerate(backends)]
    compared = compare(*sides)
    least = LEAST_AGREEMENT if setting.gpu else 1.0
    good = compared["only_a"] == compared["only_b"] == 0 < compared["pairs"] and compared["agreement"] >= least
    found: Section = {"ok": bool(good), "a": backends[0], "b": backends[1], "least_agreement": least, **compared}
    return found if good else found | {"reason": "the faults are not the same, or the outcomes differ too often"}


def compare(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """Rows paired by fault and image; those with different outcomes are listed, the first of them."""
    pairs = a.merge(b, on=FAULT, suffixes=("_a", "_b"), validate="one_to_one")
    merged = [pairs[f"outcome_{side}"].replace(INSIDE) for side in "ab"]
    differing = pairs[merged[0] != merged[1]]
    told = [*FAULT, *(f"{name}_{side}" for name in ("outcome", "max_abs_diff", "margin_faulty") for side in "ab")]
    return {
        "pairs": len(pairs),
        "only_a": len(a) - len(pairs),
        "only_b": len(b) - len(pairs),
        "agreement": float((merged[0] == merged[1]).mean()) if len(pairs) else 0.0,
        "agreement_all_outcomes": float((pairs["outcome_a"] == pairs["outcome_b"]).mean()) if len(pairs) else 0.0,
        "matrix": pd.crosstab(pairs["outcome_a"], pairs["outcome_b"]).to_dict("index"),
        "by_place": {
            f"{target}/{where}": {"pairs": len(part), "disagree": int(part.index.isin(differing.index).sum())}
            for (target, where), part in pairs.groupby(["target", "where"])
        },
        "disagreements": len(differing),
        "listed": differing[told].head(_LISTED).to_dict("records"),
    }


def _rows(setting: Setting, backend: str, folder: Path) -> pd.DataFrame:
    run_campaign(_spec(setting, backend), folder)
    rows = pd.read_parquet(folder / RESULTS)
    for name in ("target", "where", "site", "op", "image_id", "outcome"):
        rows[name] = rows[name].astype(str)
    rows["bit"] = rows["bit"].fillna(-1).astype(int)  # whole-word faults
    return rows[[*FAULT, "outcome", "max_abs_diff", "margin_faulty"]]


def _spec(setting: Setting, backend: str) -> CampaignSpec:
    """campaigns/digits.toml with few sites, bits and images, and gates that leave another engine its rounding."""
    values = tomllib.loads(SPEC.read_text())
    values["engine"] |= {"backend": backend, "batch": 16}
    values["tiers"] = {"edges": [0.5, 1.0], "images": [3, 3] if setting.quick else [16, 16]}
    values["gates"] |= {"parity_max_abs": 1e-3, "drift_max_abs": 1e-4, "zero_fault_rows": 64}
    if setting.quick:
        values["model"] |= _TINY
        values["gates"]["test_accuracy"] = 0.5
    bits, draws = [0, 22, 30, 31], 1 if setting.quick else 8
    values["faults"] = [
        {"target": "model", "where": "activation", "sites": ["*.softmax", "*.mlp.*", "head"], "bits": bits},
        {"target": "model", "where": "weight", "sites": ["*.fc1.weight", "head.weight"], "bits": bits},
        {"target": "attention", "where": "activation", "bits": bits, "ops": ["flip"]},
        {"target": "attention", "where": "weight", "sites": ["*.weight"], "bits": bits, "ops": ["flip"]},
    ]
    for section in values["faults"]:
        section["per_stratum"] = draws if section["where"] == "activation" else 1
    return parse_spec(values, SPEC.name)
