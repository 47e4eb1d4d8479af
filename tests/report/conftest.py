"""A run folder made by hand: a plan, its rows, and the summary of exactly these rows, with no engine behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testbed.analysis.outputs.guessing import Accuracy
from testbed.campaign.prepare.recorded import RecordedSubject
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.summary.record import FaultyEngine
from testbed.campaign.summary.summarise import summarise
from testbed.core.fault import Op, masks_for
from testbed.core.folder.files import sha256_file, sha256_json
from testbed.core.folder.manifest import checksummed
from testbed.core.folder.runfolder import RunFolder
from testbed.core.formats import FP32
from testbed.core.schema import FAULT_COLUMNS, PLAN_COLUMNS, ROW_COLUMNS, SCHEMA_VERSION, arrow_schema
from testbed.core.site import Site, SiteTable, site_kind
from testbed.report import build_report
from testbed.semantics import as_words, corrupt
from tests.support.report_pages import SHAPES, copy_of

BITS = (31, 30, 29, 23, 22, 11, 0)


@dataclass(frozen=True)
class Shape:
    """What the synthetic campaign is like."""

    blocks: int = 2
    headless: tuple[int, ...] = ()  # blocks without attention
    weights: bool = True
    attention: bool = True
    model: bool = True
    tiers: int = 4
    images: int = 4  # per tier
    ops: tuple[Op, ...] = ("flip", "stuck0", "stuck1", "random")
    harm: float = 1.0  # 0: no fault ever changes a prediction
    classes: tuple[str, ...] = ("cat", "dog", "<script>alert(1)</script>")
    preset: str = "toy"  # or the name of a file

    @property
    def edges(self) -> tuple[float, ...]:
        return tuple(tier / self.tiers for tier in range(self.tiers + 1))


def model_sites(shape: Shape) -> list[Site]:
    names: list[tuple[str, str, tuple[int, ...]]] = [("patch_embed", "activation", (4, 8))]
    names.append(("embed", "activation", (5, 8)))
    for block in range(shape.blocks):
        if block not in shape.headless:
            names.append((f"block.{block}.norm1", "activation", (5, 8)))
            names.append((f"block.{block}.attn.softmax", "activation", (2, 5, 5)))
        names.append((f"block.{block}.mlp.gelu", "activation", (5, 16)))
        names.append((f"block.{block}.mlp.residual", "activation", (5, 8)))
    names.append(("head", "activation", (3,)))
    if shape.weights:
        names.append(("cls_token", "weight", (1, 1, 8)))
        names += [(f"block.{block}.mlp.fc1.weight", "weight", (16, 8)) for block in range(shape.blocks)]
        names.append(("head.bias", "weight", (3,)))
    return [Site(name, where, size) for name, where, size in names]  # type: ignore[arg-type]


def attention_sites(shape: Shape) -> list[Site]:
    sites = [Site("block.0.attn.softmax", "activation", (2, 5, 5)), Site("block.0.attn.proj", "activation", (5, 8))]
    return [*sites, *([Site("block.0.attn.proj.weight", "weight", (8, 8))] * shape.weights)]


def make_run(folder: Path, shape: Shape) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    tables = {"model": model_sites(shape)} if shape.model else {}
    if shape.attention:
        tables["attention"] = attention_sites(shape)
    images = [(f"toy/{i:03d}", i % len(shape.classes), i // shape.images) for i in range(shape.tiers * shape.images)]
    plan: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for target, sites in tables.items():
        SiteTable(target, "deploy", "gated_replace", tuple(sites)).save(folder / f"{target}.sites.json")
        for fault, injected in _faults(shape, target, sites, images, len(plan), rng):
            plan.append(fault)
            rows += [_row(fault, image, shape, rng) for image in injected]
    _write(folder / "faults.parquet", plan, PLAN_COLUMNS)
    _write(folder / "results.parquet", rows, ROW_COLUMNS)
    (folder / "tiers.json").write_text(json.dumps(tiers_of(shape, images)))
    facts = facts_of(shape, len(rows))
    spec = spec_of(shape, tables)
    write_manifest(folder, spec, facts)
    (folder / "summary.json").write_text(json.dumps(summary_of(folder, spec)))
    write_manifest(folder, spec, facts)
    return folder


def _write(path: Path, records: list[dict[str, Any]], columns: Any) -> None:
    names = [column.name for column in columns]
    table = {name: [record.get(name) for record in records] for name in names}
    pq.write_table(pa.table(table, schema=arrow_schema(columns)), path)


def write_manifest(folder: Path, spec: CampaignSpec, facts: dict[str, dict[str, Any]]) -> None:
    """facts: of each stage. Stages with a file have its hash, as far as it is there."""
    files = {"plan": "faults.parquet", "execute": "results.parquet", "summary": "summary.json"}
    stages = {
        stage: {
            "inputs": {},
            "outputs": {
                file: sha256_file(folder / file) for file in [files.get(stage, "")] if (folder / file).is_file()
            },
            "facts": facts.get(stage, {}),
            "seconds": {"train": 61.2, "execute": 7.1}.get(stage, 1.5),
        }
        for stage in dict.fromkeys([*facts, *files])
    }
    manifest = {
        "kind": "campaign",
        "name": spec.name,
        "spec": spec.identity(),
        "identity": sha256_json(spec.identity()),
        "schema_version": SCHEMA_VERSION,
        "argv": ["testbed", "campaign", "run", "a & b.toml"],
        "created": "2026-01-02T03:04:05+00:00",
        "git_revision": "0123abcd",
        "host": {"system": "Linux", "processor": "Some <CPU>", "cores": 2, "user": "someone"},
        "versions": {"torch": "2.13", "numpy": "2.4"},
        "stages": stages,
    }
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))


Images = list[tuple[str, int, int]]


def _faults(
    shape: Shape, target: str, sites: list[Site], images: Images, first: int, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Any], Images]]:
    """(fault, images it strikes): one draw per site x op x bit (x tier)."""
    number = first
    for site in sites:
        for op in shape.ops:
            for bit in (None,) if op == "random" else BITS:
                for tier in range(shape.tiers) if site.where == "activation" else (None,):
                    pool = [image for image in images if tier is None or image[2] == tier]
                    injected = pool if tier is None else [pool[rng.integers(len(pool))]]
                    masks = masks_for(op, FP32, bit, int(rng.integers(1 << 32)))
                    population = site.elements * (1 if tier is None else len(pool))
                    yield (
                        {
                            "fault_id": number,
                            "target": target,
                            "where": site.where,
                            "site": site.name,
                            "kind": site_kind(site.name, site.where),
                            "block": site.block,
                            "index": int(rng.integers(site.elements)),
                            "format": "fp32",
                            "op": op,
                            "bit": bit,
                            "bit_class": FP32.bit_class(bit),
                            "and_mask": masks.and_mask,
                            "or_mask": masks.or_mask,
                            "xor_mask": masks.xor_mask,
                            "points": 1,
                            "pattern": "single",
                            "scope": "persistent" if tier is None else "inference",
                            "round": 0,
                            "stratum": number,
                            "draw": 0,
                            "population": population,
                            "inclusion": 1 / population,
                            "image_id": None if tier is None else injected[0][0],
                            "tier": tier,
                        },
                        injected,
                    )
                    number += 1


def _row(fault: dict[str, Any], image: tuple[str, int, int], shape: Shape, rng: np.random.Generator) -> dict[str, Any]:
    harm = shape.harm * {30: 0.5, 29: 0.1, 31: 0.1, None: 0.4}.get(fault["bit"], 0.0)
    draw, margin = rng.random(), shape.edges[image[2] + 1] - 0.2 * rng.random()
    has_classes = fault["target"] == "model"
    outcome = "sdc1" if draw < harm else rng.choice(["identical", "masked", "sdc_tolerable"])
    if not has_classes and outcome.startswith("sdc"):
        outcome = "sdc"
    nonfinite = bool(outcome.startswith("sdc") and harm >= 0.5 and rng.random() < 0.3)
    golden = rng.normal(size=1).astype(np.float32)
    masks = [fault[f"{name}_mask"] for name in ("and", "or", "xor")]
    faulty, changed = corrupt(golden, *masks), outcome == "sdc1"
    row = {column.name: fault[column.name] for column in FAULT_COLUMNS}
    classes = {
        "top1_golden": image[1],
        "top1_faulty": -1 if nonfinite else (image[1] + changed) % len(shape.classes),
        "margin_golden": margin,
        "margin_faulty": float("nan") if nonfinite else rng.random(),
    }
    return row | {
        "image_id": image[0],
        "label": image[1],
        "tier": image[2],
        "golden_value": golden[0],
        "faulty_value": faulty[0],
        "golden_word": int(as_words(golden)[0]),
        "faulty_word": int(as_words(faulty)[0]),
        "outcome": str(outcome),
        "nonfinite": nonfinite,
        "max_abs_diff": float("inf") if nonfinite else float(draw),
        "evaluation": "whole",
        "mismatches": int(outcome not in ("identical", "masked")),
        "schema_version": SCHEMA_VERSION,
        **(classes if has_classes else {}),
    }


def spec_of(shape: Shape, tables: dict[str, list[Site]]) -> CampaignSpec:
    sections = dict.fromkeys((target, site.where) for target, sites in tables.items() for site in sites)
    return parse_spec(
        {
            "name": "synthetic",
            "seed": 42,
            "model": {"preset": "digits", "recipe": "digits"},
            "data": {"name": "toy"},
            "tiers": {"edges": shape.edges[1:], "images": [shape.images] * shape.tiers},
            "tolerance": {"atol": 1e-4, "rtol": 1e-4, "rtol_grid": [0.0, 1e-4]},
            "faults": [{"target": target, "where": where, "ops": shape.ops} for target, where in sections],
        }
    )


def tiers_of(shape: Shape, images: Images) -> dict[str, Any]:
    """tiers.json: the named images, and as many others in a tier that it has 23, 24, ... in all."""
    named = [{"id": name, "position": n, "label": label, "tier": tier} for n, (name, label, tier) in enumerate(images)]
    tiers = []
    for tier in range(shape.tiers):
        own = [name for name, _, of in images if of == tier]
        others = [f"other/{tier}-{n}" for n in range(23 + tier - len(own))]
        tiers.append({"low": shape.edges[tier], "high": shape.edges[tier + 1], "images": own + others})
    return {"named": named, "tiers": tiers}


def facts_of(shape: Shape, rows: int) -> dict[str, dict[str, Any]]:
    """What the stages of a campaign that ran record, besides their files."""
    none = {"crashes": 0, "hangs": 0, "losses": 0, "blamed": 0, "refused": []}
    preprocess = {"preprocess": {"scale": 1}, "preprocess_told": "toy: shorter side to 8"}
    seconds = {"wall_seconds": rows / 8123.4, "engine_seconds": 5.0, "worker_seconds": 6.0}
    return {
        "train": {},
        "golden": {"accuracy": 0.96, "images": 200},
        "pictures": {
            "model": {
                "preset": shape.preset,
                "parameters": 1234,
                "sha256": "ab" * 32,
                "reference": "PyTorch, float32",
                "changes": [],
            },
            "data": {
                "name": "toy",
                "classes": list(shape.classes),
                "channels": 1,
                "image": 8,
                "images": {"test": 200},
                "source": None,
                **preprocess,
            },
            "accuracy": asdict(Accuracy(0.96, 0.92, 0.98, 1 / 3, 200, len(shape.classes))),
        },
        "tune": {"batch": 64, "threads": 1, "unit_rows": 64},
        "gates": {
            "zero_fault": {"rows": 4096, "mismatches": 0},
            "drift": {"max_abs_diff": 1.2e-7, "bound": 1e-5},
            "parity": [
                {"target": "model", "pair": "torch-plain", "max_abs_diff": 2e-6, "top1_agreement": 1.0, "bound": 1e-4}
            ],
            "goldens": {},
            "weights": {},
            "evaluation": {"model": {"by": "whole", "why": "the spec asks for it"}},
        },
        "plan": {"faults": rows},
        "execute": {**none, **seconds, "rows": rows, "rows_this_process": rows, "faults": rows},
    }


def summary_of(folder: Path, spec: CampaignSpec) -> dict[str, Any]:
    """By the real summariser, of a folder that has all but the summary."""
    run = RunFolder(folder)
    engine = FaultyEngine(
        hash="cafe", deployment_id="deploy", target="model", where="activation", file="m.onnx", options={}
    )
    return summarise(
        Preparation(spec, run, RecordedSubject(spec, run)), [engine], "results.parquet", tables={}
    ).to_json()


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the run folder of a ``Shape`` with these fields, once."""
    made: dict[Shape, Path] = {}

    def make(**fields: Any) -> Path:
        shape = Shape(**fields)
        if shape not in made:
            made[shape] = make_run(tmp_path_factory.mktemp("report") / "run", shape)
        return made[shape]

    return make


@pytest.fixture(scope="session")
def report_of(run_of: Callable[..., Path]) -> Callable[..., Path]:
    """The report of a ``Shape`` with these fields, built once, with an image for every id."""
    built: dict[Path, Path] = {}

    def build(**fields: Any) -> Path:
        run = run_of(**fields)
        if run not in built:
            built[run] = build_report(run, toy_image)
        return built[run]

    return build


def toy_image(image_id: str) -> np.ndarray:
    """(8, 8) uint8, another one for every id."""
    return np.random.default_rng(int(image_id.removeprefix("toy/"))).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.fixture
def run_copy(run_of: Callable[..., Path], tmp_path: Path) -> Path:
    """The usual run, to be changed; without its page."""
    return copy_of(run_of(), tmp_path)


@pytest.fixture(params=list(SHAPES), ids=str)
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SHAPES[request.param]
