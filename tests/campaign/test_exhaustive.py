"""Campaigns against exhaustive truth: every single bit flip of a few tensors of the trained digits model is run in plain
PyTorch, and many re-seeded campaigns, fixed and adaptive, draw from that table.

Nothing of the project but the planner and the estimator is under test here: no engine, no evaluator, no masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import binom

from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.sequential import Monitor
from testbed.analysis.adaptive.simulation import SimulatedTruth
from testbed.analysis.stratified import SamplingFrame
from testbed.campaign.folder.images import named_images
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.results.reader import ROW_SCHEMA
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.summary.rates import fault_models
from testbed.campaign.summary.tally import Tally
from testbed.core.site import SiteTable
from testbed.data import load
from testbed.models.vit import ViT, taps
from testbed.models.weights import load_model
from tests.support.blocks import blocks_of
from tests.support.plans import plan_table

pytestmark = pytest.mark.slow

ACTIVATIONS = ("block.1.norm1", "block.2.attn.softmax", "norm", "head")
WEIGHTS = ("block.1.norm1.bias", "head.bias")
TIERS = [["a", "b"], ["c", "d"]]
IMAGES = [name for tier in TIERS for name in tier]
TIER_OF = {name: number for number, tier in enumerate(TIERS) for name in tier}
BITS = 32
BATCH = 256
SPEC: dict[str, Any] = {
    "name": "exhaustive",
    "model": {"preset": "digits", "recipe": "digits"},
    "data": {"name": "digits"},
    "tiers": {"edges": [0.5, 1.0], "images": [2, 2]},
    "faults": [
        {"target": "model", "where": "activation", "ops": ["flip"], "sites": list(ACTIVATIONS)},
        {"target": "model", "where": "weight", "ops": ["flip"], "sites": list(WEIGHTS)},
    ],
}


class Truth(NamedTuple):
    """changed: per site, (elements, bits, images), whether the top-1 is another one."""

    tables: dict[str, SiteTable]
    changed: dict[str, np.ndarray]

    def of(self, where: str) -> dict[str, np.ndarray]:
        return {site: self.changed[site] for site in (ACTIVATIONS if where == "activation" else WEIGHTS)}

    def rate(self, where: str) -> float:
        """All elements, bits and images weigh equally."""
        return float(np.concatenate([found.ravel() for found in self.of(where).values()]).mean())


def modules(model: ViT) -> dict[str, torch.nn.Module]:
    blocks = blocks_of(model)
    return {
        "block.1.norm1": blocks[1].norm1,
        "block.2.attn.softmax": taps(model)["block.2.attn.softmax"],
        "norm": model.norm,
        "head": model.head,
    }


def top1(logits: torch.Tensor) -> np.ndarray:
    """-1 where a logit is NaN: it has no top-1."""
    return np.where(torch.isnan(logits).any(-1).numpy(), -1, logits.argmax(-1).numpy())


def flipped(values: torch.Tensor, bit: torch.Tensor) -> torch.Tensor:
    return (values.view(torch.int32) ^ (torch.ones_like(bit) << bit)).view(torch.float32)


def all_activation_flips(model: ViT, module: torch.nn.Module, image: torch.Tensor, elements: int) -> np.ndarray:
    """(elements, bits): whether each flip in the module's output changes the image's top-1."""
    index, bit = (part.ravel() for part in np.meshgrid(np.arange(elements), np.arange(BITS), indexing="ij"))
    golden, found = int(top1(model(image[None]))[0]), []
    for start in range(0, len(index), BATCH):
        rows = slice(start, start + BATCH)
        at, which = torch.from_numpy(index[rows]), torch.from_numpy(bit[rows].astype(np.int32))

        def inject(_: Any, __: Any, output: torch.Tensor, at: torch.Tensor = at, which: torch.Tensor = which) -> Any:
            flat = output.clone().reshape(len(at), -1)
            n = torch.arange(len(at))
            flat[n, at] = flipped(flat[n, at], which)
            return flat.reshape(output.shape)

        handle = module.register_forward_hook(inject)
        try:
            found.append(top1(model(image.expand(len(at), *image.shape))) != golden)
        finally:
            handle.remove()
    return np.concatenate(found).reshape(elements, BITS)


def all_weight_flips(model: ViT, parameter: torch.Tensor, images: torch.Tensor) -> np.ndarray:
    """(elements, bits, images)."""
    flat, golden = parameter.data.view(-1), top1(model(images))
    found = np.zeros((len(flat), BITS, len(images)), bool)
    for element in range(len(flat)):
        for bit in range(BITS):
            before = flat[element].clone()
            flat[element] = flipped(before, torch.tensor(bit, dtype=torch.int32))
            found[element, bit] = top1(model(images)) != golden
            flat[element] = before
    return found


@pytest.fixture(scope="module")
def truth(digits_run: Path) -> Truth:
    torch.set_num_threads(1)
    model, table = load_model(digits_run / "model.safetensors").eval(), SiteTable.load(digits_run / "model.sites.json")
    named = named_images(digits_run / "tiers.json")
    low, high = named.per_tier(4)[0], named.per_tier(4)[-1]
    where = dict(zip(named.ids, named.positions, strict=True))
    images = torch.from_numpy(load("digits", seed=42).test.batch(np.array([where[i] for i in (*low[:2], *high[:2])])))
    changed = {}
    with torch.inference_mode():
        for site, module in modules(model).items():
            each = [all_activation_flips(model, module, image, table[site].elements) for image in images]
            changed[site] = np.stack(each, axis=-1)
        parameters = dict(model.named_parameters())
        for site in WEIGHTS:
            changed[site] = all_weight_flips(model, parameters[site], images)
    found = Truth({"model": table}, changed)
    assert 0.002 < found.rate("activation") < 0.1  # about 1 % where all tensors were struck exhaustively
    assert found.changed["block.1.norm1"][:, 30].mean() > 0.5  # a top exponent bit before attention: 92 % then
    return found


def with_outcomes(plan: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """Rows as a campaign stores them: a weight fault has one per image."""
    own = plan["image_id"].notna()
    rows = pd.concat([plan[own], *(plan[~own].assign(image_id=image) for image in IMAGES)]).sort_values("fault_id")
    image = rows["image_id"].map(IMAGES.index).to_numpy()
    index, bit = rows["index"].to_numpy(), rows["bit"].to_numpy(int)
    changed = np.zeros(len(rows), bool)
    for site, found in truth.changed.items():
        mine = (rows["site"] == site).to_numpy()
        changed[mine] = found[index[mine], bit[mine], image[mine]]
    outcome = np.where(changed, "sdc1", "masked")
    return rows.assign(
        tier=rows["image_id"].map(TIER_OF), outcome=outcome, nonfinite=False, evaluation="whole", due=None
    )


def rates_of(plan: pd.DataFrame, truth: Truth, folder: Path) -> Iterator[tuple[str, float, float, float, float, int]]:
    """(name, estimate, low, high, true rate, rows) of everything that a summary tells of a campaign's rows."""
    rows = with_outcomes(plan, truth)
    schema = pa.schema([field for field in ROW_SCHEMA if field.name in rows.columns])
    pq.write_table(pa.Table.from_pandas(rows[schema.names], preserve_index=False).cast(schema), folder / "rows.parquet")
    population = plan.groupby("stratum")["population"].first().reindex(range(plan["stratum"].max() + 1), fill_value=0)
    for rates in fault_models(Tally.of(folder / "rows.parquet"), population.to_numpy(), 0.95):
        where = rates.model.where
        of = truth.of(where)
        told = [("all", rates.over_all(), truth.rate(where))]
        told += [(str(site), group, float(of[str(site)].mean())) for site, group in rates.by("site")]
        every = np.concatenate([found.reshape(-1, BITS, len(IMAGES)) for found in of.values()])
        by_tier = [float(every[..., 2 * tier : 2 * tier + 2].mean()) for tier in (0, 1)]
        told += [(f"tier {tier}", group, by_tier[int(tier)]) for tier, group in rates.by("tier")]
        told += [
            (f"bit {bit}", group, float(every[:, int(bit)].mean())) for bit, group in rates.by("bit") if int(bit) > 22
        ]
        for name, group, rate in told:
            found = group.rates["sdc1"]
            yield f"{where}, {name}", found.rate, found.low, found.high, rate, found.n_rows


def spec_with(seed: int, **more: Any) -> CampaignSpec:
    faults = [section | more.get("section", {}) for section in SPEC["faults"]]
    stop = {"stop": more["stop"]} if "stop" in more else {}
    return parse_spec(SPEC | {"seed": seed, "faults": faults, **stop})


def test_fixed_campaigns_are_unbiased_and_their_intervals_cover(truth: Truth, tmp_path: Path) -> None:
    campaigns = 150
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(campaigns):
        plan = plan_table(spec_with(seed, section={"per_stratum": 2}), truth.tables, TIERS).to_pandas()
        for name, *numbers in rates_of(plan, truth, tmp_path):
            found.setdefault(name, []).append(tuple(numbers))
    assert len(found) >= 20
    judged = []
    for name, campaign in found.items():
        rate, low, high, true, rows = np.array(campaign).T
        assert len(rate) == campaigns
        held = (low <= true + 1e-12) & (true <= high + 1e-12)
        assert held.sum() >= binom.ppf(1e-5, campaigns, 0.95), name
        if true @ rows > 200:  # of fewer events the mean's own spread is not known
            assert abs((rate - true).mean()) <= 4.5 * rate.std(ddof=1) / np.sqrt(campaigns) + 1e-9, name
            judged.append(name)
    assert len(judged) >= 10, judged


def test_adaptive_campaigns_cover_at_all_looks(truth: Truth, tmp_path: Path) -> None:
    campaigns = 40
    stop = {"margin": 0.01, "per": "site", "strata": "site x bit_class"}
    held: dict[str, int] = {}
    summary: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(campaigns):
        adaptive = AdaptivePlanner(spec_with(seed, stop=stop), truth.tables, TIERS)
        counts: list[Any] = []
        plans: list[pd.DataFrame] = []
        while (parts := adaptive.round(len(counts), counts)) is not None:
            table = pa.concat_tables([part.faults for part in parts]).unify_dictionaries().combine_chunks()
            plans.append(table.to_pandas())
            rows = with_outcomes(plans[-1], truth)
            results = pa.table({"fault_id": rows["fault_id"], "outcome": pa.array(rows["outcome"]).dictionary_encode()})
            counts.append(adaptive.counts_of(table, [results]))
        verdict = adaptive.verdict(counts)
        assert verdict.met
        for domain in verdict.domains:
            (site,) = domain.values
            rate = float(truth.changed[site].mean())
            held[site] = held.get(site, 0) + (domain.low - 1e-12 <= rate <= domain.high + 1e-12)
        plan = pd.concat(plans).astype({"image_id": object, "site": str})
        for name, *numbers in rates_of(plan, truth, tmp_path):
            if name.endswith(", all"):
                summary.setdefault(name, []).append(tuple(numbers))
    least = binom.ppf(1e-5, campaigns, 0.95)
    assert set(held) == {*ACTIVATIONS, *WEIGHTS}
    assert min(held.values()) >= least, held
    for name, campaign in summary.items():
        rate, low, high, true, _ = np.array(campaign).T
        assert ((low <= true) & (true <= high)).sum() >= least, name
        assert abs(rate.mean() - true[0]) < 0.01 * true[0] + 4 * rate.std(ddof=1) / np.sqrt(campaigns), name


def test_estimates_of_adaptive_campaigns_are_unbiased(truth: Truth) -> None:
    """Of a thousand campaigns on the strata of the activations, and of the sites and the parts of each that are told: exponent
    bits were 30 % low, and signs 40 %, while all faults of a stratum counted alike."""
    campaigns, rates, population, site_of, class_of = 1000, [], [], [], []
    fmt = truth.tables["model"]["head"].format
    for number, changed in enumerate(truth.of("activation").values()):
        classes = np.array([fmt.bit_class(bit) for bit in range(BITS)])
        for name in dict.fromkeys(classes.tolist()):
            part = changed[:, classes == name]
            rates.append(part.mean())
            population.append(part.size)
            site_of.append(number)
            class_of.append(name)
    known = SimulatedTruth.of(SamplingFrame.of(population, np.zeros(len(rates)), class_of), rates)
    monitor, rng = Monitor(known.frame, StopRule(0.01), campaigns), np.random.default_rng(3)
    while monitor.open.any():
        monitor.observe(known.draw(rng, monitor.additions(), monitor.tally))
    mean, weight = monitor.rounds.sample().mean, np.array(population)
    parts = {"all": np.ones(len(rates), bool)}
    parts |= {f"class {name}": np.array(class_of) == name for name in set(class_of)}
    parts |= {f"site {name}": np.array(site_of) == number for number, name in enumerate(ACTIVATIONS)}
    for named, member in parts.items():
        share = member * weight / weight[member].sum()
        true, found = float(share @ rates), mean @ share
        chance = 4 * found.std(ddof=1) / np.sqrt(campaigns)
        assert abs(found.mean() - true) < 0.01 * true + chance + 1e-12, (named, true, found.mean(), chance)
