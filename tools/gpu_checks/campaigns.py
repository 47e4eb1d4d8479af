"""One small campaign in two engines: the same faults, outcome against outcome, golden against golden."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import testbed

from . import build
from .common import Absent, Section, Setting, require
from .subject import Subject, subject

FAULT = ["target", "where", "site", "index", "op", "bit", "image_id"]
INSIDE = {"identical": "inside", "masked": "inside"}  # the tolerance: which of the two it is, rounding decides
LEAST_AGREEMENT = 0.98  # of two engines; outputs right at the tolerance may fall on either side of it
FASTEST_SHARE = 0.4  # of the stage's time: with less left the fastest evaluation is not tried
DRIFT = 1e-3  # of two engines' goldens, at most
_LISTED = 50


def campaign(setting: Setting) -> Section:
    """The engine against PyTorch on the CPU; without a GPU, PyTorch on the CPU twice, where each outcome must be the same.
    Then the engine once more with the fastest evaluation, which must give the outcomes of the whole one."""
    found = concordance(setting, ("torch", setting.backend), same=not setting.gpu)
    setting.tell(found)
    if not found["ok"] or setting.left_s < FASTEST_SHARE * setting.limit_s:
        return found | {"fastest": {"not_run": "too little time is left, or the outcomes differ already"}}
    fastest, whole = setting.folder / "c-fastest", _side(setting, "b", setting.backend)
    _run(setting, subject(setting), setting.backend, fastest, "fastest")
    compared = compare(_rows(whole), _rows(fastest))
    found["fastest"] = {**stage_facts(fastest), **compared}
    if compared["only_a"] or compared["only_b"] or compared["agreement_all_outcomes"] < 1:
        found |= {"ok": False, "reason": f"{compared['disagreements']} outcomes differ from the whole evaluation's"}
    return found


def concordance(setting: Setting, backends: tuple[str, str], *, same: bool) -> Section:
    """Outcomes and goldens of one campaign in two engines, each fault evaluated by the whole engine. same: every outcome
    must agree, not only most."""
    for backend in backends:
        require(backend)
    checked = subject(setting)
    found: Section = {"subject": checked.origin, "kernels": cpu_kernels(), "a": backends[0], "b": backends[1]}
    folders = [_side(setting, side, backend) for side, backend in zip("ab", backends, strict=True)]
    for side, backend, folder in zip("ab", backends, folders, strict=True):
        _run(setting, checked, backend, folder, "whole")
        found[f"campaign_{side}"] = stage_facts(folder)
        setting.tell(found)
    compared = compare(*map(_rows, folders))
    least = 1.0 if same else LEAST_AGREEMENT
    drift = _golden_drift(*folders)
    good = compared["only_a"] == compared["only_b"] == 0 < compared["pairs"] and compared["agreement"] >= least
    good = good and drift["max_abs_diff"] <= DRIFT
    found |= {"least_agreement": least, "golden_drift": drift, **compared}
    reason = f"the faults are not the same, outcomes differ too often ({compared['agreement']:.4f} agree), or goldens"
    return {"ok": good, **({} if good else {"reason": f"{reason} ({drift['max_abs_diff']:.3g})"}), **found}


def _side(setting: Setting, side: str, backend: str) -> Path:
    return setting.folder / f"{side}-{backend}"


def _run(setting: Setting, checked: Subject, backend: str, folder: Path, evaluation: str) -> None:
    model = checked.run_folder(setting.folder / "model")
    spec = _spec(setting, checked, model, backend, evaluation)
    testbed.run(spec, folder, workers=_workers(backend)).close()


def cpu_kernels() -> str:
    try:
        return Path(build.use_cpu_kernels()["file"]).name
    except (Absent, testbed.TestbedError) as error:
        return f"none: {error}"  # campaigns do without


def _workers(backend: str) -> int:
    """Isolated processes: one on a GPU, several on the cores of a CPU."""
    return 1 if backend.endswith("cuda") else min(8, max(1, (os.cpu_count() or 1) - 1))


def stages_of(folder: Path) -> dict[str, Any]:
    """What the manifest of a run folder says of each stage."""
    stages: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["stages"]
    return stages


def stage_facts(folder: Path) -> Section:
    """Seconds of each stage, how faults were evaluated, and how far engine and original model are apart."""
    stages = stages_of(folder)
    gates = stages["gates"]["facts"]
    return {
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "rows": pq.read_metadata(folder / "results.parquet").num_rows,
        "evaluation": {
            plan_slice: {"by": how["by"], "why": how.get("why")} for plan_slice, how in gates["evaluation"].items()
        },
        "parity": gates["parity"],
    }


def _golden_drift(a: Path, b: Path) -> Section:
    """Of the engines' goldens of the same images: the largest difference, and images of another class."""
    goldens = []
    for folder in (a, b):
        with testbed.open_run(folder) as run:
            kept = [run.inject("head", 0, image=image, op="identity").golden for image in run.image_ids]
            goldens.append(np.stack(kept))
    return {
        "images": len(goldens[0]),
        "max_abs_diff": float(np.abs(goldens[0].astype(np.float64) - goldens[1]).max()),
        "other_class": int((goldens[0].argmax(1) != goldens[1].argmax(1)).sum()),
        "bound": DRIFT,
    }


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


def _rows(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "results.parquet")
    for name in ("target", "where", "site", "op", "image_id", "outcome"):
        rows[name] = rows[name].astype(str)
    rows["bit"] = rows["bit"].fillna(-1).astype(int)  # whole-word faults
    return rows[[*FAULT, "outcome", "max_abs_diff", "margin_faulty"]]


def _spec(setting: Setting, checked: Subject, model: Path, backend: str, evaluation: str) -> testbed.CampaignSpec:
    """Few sites, bits and images; gates that leave another engine its rounding."""
    bits, draws = [0, 10, 22, 23, 26, 30, 31], 1 if setting.quick else 2
    blocks = checked.config.depth
    some = sorted({0, blocks // 2, blocks - 1})
    activations = ["patch_embed", "head", *(f"block.{b}.{s}" for b in some for s in ("attn.*", "mlp.*"))]
    weights = ["head.weight", *(f"block.{b}.{s}.weight" for b in some for s in ("attn.qkv", "mlp.fc1"))]
    faults: list[dict[str, Any]] = [
        {"target": "model", "where": "activation", "sites": activations, "bits": bits, "per_stratum": draws},
        {"target": "model", "where": "weight", "sites": weights, "bits": bits[::2], "ops": ["flip"]},
        {"target": "attention", "where": "activation", "bits": bits, "ops": ["flip"], "per_stratum": draws},
        {"target": "attention", "where": "weight", "sites": ["*.weight"], "bits": bits[::2], "ops": ["flip"]},
    ]
    values: dict[str, Any] = {
        "name": "gpu-check",
        "seed": 7,
        "model": {"run": str(model)},
        "tiers": _tiers(setting),
        "engine": {"backend": backend, "batch": 8 if setting.quick else 32, "evaluation": evaluation},
        "gates": {"parity_max_abs": DRIFT, "drift_max_abs": 1e-4, "zero_fault_rows": 64 if setting.quick else 256},
        "tolerance": {"atol": 1e-4, "rtol": 1e-4},
        "faults": faults if not setting.quick else [dict(f, bits=[0, 30], ops=["flip"]) for f in faults],
    }
    if setting.data is not None:
        values["data"] = {"name": checked.data, "preprocess": checked.preprocess, "images": 1000}
    return testbed.load_spec(values)


def _tiers(setting: Setting) -> dict[str, Any]:
    """Random weights are sure of nothing: their images are one tier."""
    if setting.weights is not None and setting.data is not None:
        return {"images": [4, 4, 4, 4] if setting.quick else [16, 16, 16, 16]}
    return {"edges": [1.0], "images": [8 if setting.quick else 64]}
