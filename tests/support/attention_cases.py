"""An attention module of 17 tokens with its engine and golden tensors, and what an evaluator of it says of injections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import GoldenSide, classify
from testbed.campaign.evaluate.attention.evaluator import AttentionEvaluator, AttentionPaths
from testbed.campaign.evaluate.attention.gate import random_flips
from testbed.campaign.evaluate.attention.golden import AttentionGoldens, AttentionTarget, ImageGolden
from testbed.campaign.evaluate.attention.graphs import attention_sites, stages
from testbed.campaign.evaluate.attention.stage_engines import Sizes, proven
from testbed.campaign.evaluate.contract import Injections
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages
from testbed.core.folder.files import sha256_bytes
from testbed.core.site import SiteTable
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.export.onnx import plain_onnx
from testbed.export.target import input_name
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.shapes import input_name as graph_input
from testbed.instrument.shapes import output_name
from testbed.instrument.table import site_table
from testbed.models.presets import preset
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT
from tests.support.blocks import blocks_of

IMAGES, BATCH = 6, 4


@dataclass
class Case:
    """One attention module of 17 tokens, its engine, and its golden tensors."""

    target: AttentionTarget
    whole: WholeTwin
    goldens: dict[int, ImageGolden]
    sizes: Sizes

    def evaluator(
        self, path: dict[str, str], atol: float = 1e-6, rtol: float = 1e-5, **options: Any
    ) -> AttentionEvaluator:
        paths = AttentionPaths(path, self.sizes)
        return AttentionEvaluator(self.target, self.whole, paths, np.full(IMAGES, atol), rtol, **options)

    def flips(self, kind: str, faults: int, seed: int = 0) -> Injections:
        return random_flips(self.target, kind, self.goldens, faults, np.random.default_rng(seed))

    def writes(self, kind: str, value: float, faults: int) -> Injections:
        """Sets random elements to a value."""
        injections = self.flips(kind, faults)
        words = np.full(faults, np.float32(value).view(np.uint32))
        feed = PortFeed.writing(injections.ports.site[:, 0], injections.ports.index[:, 0], words)
        return Injections(injections.image, replace(feed, golden=injections.ports.golden))


def case(attention: str = "softmax", loudness: float = 1.0, backend: str = "ort-cpu", bias: bool = True) -> Case:
    """loudness: factor on the weights that make q, k and v; the larger, the more a row attends to few keys."""
    torch.manual_seed(3)
    model = ViT(preset("digits", attention=attention, qkv_bias=bias)).eval()
    with torch.no_grad():
        for parameter in blocks_of(model)[0].attn.qkv.parameters():
            parameter.mul_(loudness)
    example = torch.zeros(2, model.config.tokens, model.config.width)
    plain = plain_onnx(subnetwork(model, "attention"), example, input_name=input_name("attention")).SerializeToString()
    return case_of_file(plain, site_table(plain, "attention"), example.shape[1:], backend)


def case_of_file(plain: bytes, table: SiteTable, shape: tuple[int, ...], backend: str = "ort-cpu") -> Case:
    """The module in this file. shape: one image's, of what it is fed."""
    twin = instrument(plain, table).SerializeToString()

    def opened(model: bytes) -> Runner:
        return open_engine(backend, EngineRequest(model, sha256_bytes(model), table.deployment_id, max_batch=BATCH))

    inputs = np.random.default_rng(4).standard_normal((IMAGES, *shape)).astype(np.float32)
    number = np.arange(IMAGES)
    images = NamedImages(tuple(map(str, number)), number, np.zeros(IMAGES, np.int16), number)
    engine = CampaignEngine(
        "attention", "activation", table, opened(twin), lambda rows: inputs[rows], graph_input(plain),
        output_name(plain), images, BATCH,
    )  # fmt: skip
    sites = attention_sites(table, plain)
    assert sites is not None
    target = AttentionTarget(plain, twin, table, sites, opened, lambda rows: inputs[rows], BATCH)
    whole = WholeTwin(engine)
    source = AttentionGoldens(target, whole.golden, 2**40)
    goldens = source.load([0, 1, 2, 3]) | source.load([4, 5])
    sizes = proven(stages(plain, sites), opened, list(goldens.values()), 0, sites.turned)
    return Case(target, whole, goldens, sizes)


@cache
def case_of(attention: str) -> Case:
    return case(attention)


def together(
    evaluator: Any, injections: Injections
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
    """outputs, how, bound of all strikes, each found once."""
    parts = list(evaluator.evaluate(injections))
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows.tolist()) == list(range(len(injections)))
    order = np.argsort(rows)
    outputs, how, bound = (
        np.concatenate([getattr(p, name) for p in parts])[order] for name in ("outputs", "how", "bound")
    )
    return outputs, how, bound


def same_bits(found: NDArray, wanted: NDArray) -> bool:
    either_nan = np.isnan(found) & np.isnan(wanted)
    return bool(((found.view(np.uint32) == wanted.view(np.uint32)) | either_nan).all())


def joined(*injections: Injections) -> Injections:
    ports = [s.ports for s in injections]
    names = ("site", "index", "and_mask", "or_mask", "xor_mask", "golden")
    feed = PortFeed(*(np.concatenate([getattr(port, name) for port in ports]) for name in names))
    return Injections(np.concatenate([s.image for s in injections]), feed)


def assert_same_outcomes(subject: Case, injections: Injections, found: NDArray, atol: float, rtol: float) -> None:
    wanted = together(subject.whole, injections)[0]
    side = GoldenSide.of(subject.whole.golden, has_classes=False).take(injections.image)
    judged = [classify(y, side, atol, rtol, (0.0,), has_classes=False) for y in (found, wanted)]
    assert (judged[0].outcome != judged[1].outcome).sum() == 0
    assert (judged[0].nonfinite == judged[1].nonfinite).all()
