"""Small models of every shape that suffix evaluation must know, with the whole twin to hold it against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluator, Injections
from testbed.campaign.evaluate.suffix.evaluator import SuffixEvaluator
from testbed.campaign.evaluate.suffix.shortcuts import Shortcuts
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages
from testbed.core.arrays import Words32
from testbed.core.fault import masks_for
from testbed.core.outcome import How
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.export.onnx import plain_onnx
from testbed.instrument.cut.flow import Flow
from testbed.instrument.cut.stages import Stages
from testbed.instrument.ports.feed import NO_SITE, PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.models.branches import LAYER_SCALE_START
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT

_BASE: dict[str, Any] = {"image": 8, "patch": 2, "channels": 1, "width": 16, "classes": 5, "head_width": 8}
CONFIGS = {
    "pre-norm": ViTConfig(heads=(2, 1, 2), mlp=(24, 32, 16), qkv_bias=True, patch_norm=True, **_BASE),
    "post-norm, mean": ViTConfig(
        heads=(2, 2),
        mlp=(24, 24),
        norm_order="post",
        patchify="conv",
        position="sinusoidal",
        pooling="mean",
        final_norm="none",
        **_BASE,
    ),
    "post-norm, first token": ViTConfig(heads=(2, 1), mlp=(24, 0), norm_order="post", final_norm="tokens", **_BASE),
    "differential, mean of patches": ViTConfig(
        heads=(2, 1),
        mlp=(24, 16),
        attention="differential",
        position="2d",
        pooling="mean_patches",
        final_norm="tokens",
        **_BASE,
    ),
    "registers, layer scale, gated": ViTConfig(
        heads=(2, 1),
        mlp=(24, 16),
        registers=3,
        position_on="patches",
        layer_scale=True,
        gated_mlp=True,
        activation="silu",
        qk_norm=True,
        **_BASE,
    ),
    "two heads": ViTConfig(
        heads=(2, 1), mlp=(24, 16), distillation="head", final_norm="tokens", embed_norm=True, **_BASE
    ),
    "pruned": ViTConfig(heads=(0, 2, 0, 1, 0), mlp=(24, 0, 0, 32, 16), **_BASE),
}
IMAGES = 7


@cache
def exported(name: str) -> bytes:
    torch.set_num_threads(1)
    torch.manual_seed(len(name))
    model = ViT(CONFIGS[name]).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1 and parameter.allclose(
            torch.tensor(LAYER_SCALE_START)
        ):  # so small that no fault would show
            torch.nn.init.ones_(parameter)
    return plain_onnx(model, torch.zeros(2, 1, 8, 8), input_name="image").SerializeToString()


class Lab:
    """One model on one engine. ``opened``: how many engines were opened for segments of it."""

    def __init__(
        self,
        plain: bytes,
        backend: str = "ort-cpu",
        batch: int = 4,
        mechanism: str = "gated_replace",
        precision: str = "fp32",
    ) -> None:
        self.plain, self.backend, self.batch, self.precision, self.opened = plain, backend, batch, precision, 0
        self.table: SiteTable = site_table(plain, "model", mechanism)
        proto = onnx.load_from_string(plain)
        self.stages = Stages.of(Flow.of(proto), self.table)
        value = proto.graph.input[0]
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        self.images = np.random.default_rng(1).standard_normal((IMAGES, *shape)).astype(dtype)
        none = np.zeros(IMAGES, np.int64)
        named = NamedImages(tuple(map(str, range(IMAGES))), none, none.astype(np.int16), none)
        self.engine = CampaignEngine(
            target="model",
            where="activation",
            table=self.table,
            runner=self.open(instrument(plain, self.table).SerializeToString(), batch=batch),
            inputs=lambda rows: self.images[rows],
            input_name=value.name,
            output_name=proto.graph.output[0].name,
            images=named,
            batch=batch,
        )

    def open(self, model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Runner:
        self.opened += 1
        request = EngineRequest(
            model, "sha", "id", precision=self.precision, max_batch=batch or self.batch, mutable_weights=mutable_weights
        )
        return open_engine(self.backend, request)

    @cached_property
    def whole(self) -> WholeTwin:
        return WholeTwin(self.engine)

    def evaluator(self, plan: Shortcuts | None = None, **budgets: int) -> SuffixEvaluator:
        return SuffixEvaluator(
            self.stages,
            plan or Shortcuts(),
            self.open,
            self.whole,
            lambda rows: self.images[rows],
            IMAGES,
            self.batch,
            **budgets,
        )

    def live(self, injections: Injections) -> Words32:
        """Golden words, as the whole twin tells them."""
        words = np.zeros(injections.ports.site.shape, np.uint32)
        for point in range(injections.ports.points):
            for start in range(0, len(injections), self.batch):
                rows = np.arange(start, min(start + self.batch, len(injections)))
                site, index = injections.ports.site[rows, point], injections.ports.index[rows, point]
                _, live = self.engine.run(
                    injections.image[rows], PortFeed.writing(site, index, np.zeros(len(rows), np.uint32))
                )
                assert live is not None
                words[rows, point] = live[:, 0]
        return words

    def sites(self, suffix: str = "") -> list[Site]:
        return [site for site in self.table if site.where == "activation" and site.name.endswith(suffix)]

    def injections(self, count: int, seed: int, sites: Sequence[Site] | None = None, points: int = 1) -> Injections:
        """Flips of random bits in random elements of each site in turn; a third of them in the first token."""
        rng = np.random.default_rng(seed)
        sites = sites or self.sites()
        site, index, flip = (np.full((count, points), NO_SITE, np.int64) for _ in range(3))
        for row in range(count):
            faulty = sites[row % len(sites)]
            near = int(rng.integers(3)) == 0
            most = max(points, faulty.shape[-1]) if near else faulty.elements
            some = rng.choice(most, size=min(points, faulty.elements), replace=False)
            site[row, : len(some)], index[row, : len(some)] = self.table.ports[faulty.name], some
            bits = rng.integers(faulty.format.bits, size=points)
            flip[row] = [masks_for("flip", faulty.format, int(bit)).xor_mask for bit in bits]
        none = np.zeros((count, points), np.uint32)
        ports = PortFeed(site, index, ~none, none, flip.astype(np.uint32), none)
        injections = Injections(rng.integers(IMAGES, size=count), ports)
        return with_words(injections, self.live(injections))


def with_words(injections: Injections, words: Words32) -> Injections:
    p = injections.ports
    return Injections(injections.image, PortFeed(p.site, p.index, p.and_mask, p.or_mask, p.xor_mask, words))


def evaluated(evaluator: Evaluator, injections: Injections) -> tuple[NDArray[np.float32], list[str]]:
    """(n, ...) outputs and how each was found; every strike exactly once."""
    parts = list(evaluator.evaluate(injections))
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows) == list(range(len(injections)))
    assert all(not part.bound.any() for part in parts)
    order = np.argsort(rows)
    how = np.concatenate([part.how for part in parts])[order]
    return np.concatenate([part.outputs for part in parts])[order], [How(value).name for value in how]


def bits(values: NDArray) -> NDArray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
