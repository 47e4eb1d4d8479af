"""Values of every site of a PyTorch model, and how the golden class's lead depends on each: what proxies are made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.campaign.files import PROXY, Files
from testbed.campaign.plan.groups import Group
from testbed.campaign.plan.steer.proxy import Sample, Samples, scores
from testbed.campaign.prepare.stages import Preparation
from testbed.core.arrays import Float64s
from testbed.core.folder.files import write_json
from testbed.core.folder.parsing import json_value
from testbed.golden.arrays import read_array
from testbed.models.runs import MODEL
from testbed.models.vit import ViT, taps
from testbed.models.weights import load_model

log = logging.getLogger(__name__)

_IMAGES = 32  # of the campaign's, spread evenly
_VALUES = 64  # per tensor and image; of a weight, as many as of an activation


def guess_of(preparation: Preparation) -> Callable[[Sequence[Group]], Float64s] | None:
    """The scores that the spec's proxy asks for; None without one. They are kept in the run folder, so that a campaign
    that goes on elsewhere is steered as it began."""
    stop, folder = preparation.spec.stop, preparation.folder
    if stop is None or stop.proxy == "none":
        return None
    proxy, model_hash = stop.proxy, folder.output_hash("train", MODEL)

    def guess(groups: Sequence[Group]) -> Float64s:
        names = [group.name for group in groups]
        made_from = {"model": model_hash, "proxy": proxy, "groups": names}
        path = folder / PROXY
        kept = _kept(path)
        if {key: kept.get(key) for key in made_from} != made_from or not _are_scores(kept.get("scores"), len(names)):
            n = len(preparation.images)
            chosen = np.unique(np.linspace(0, n - 1, _IMAGES).astype(int))
            samples = model_samples(load_model(folder / MODEL), _pixels(preparation, chosen))
            kept = {**made_from, "scores": scores(proxy, samples)(groups).tolist()}
            write_json(path, kept)
        return np.array(kept["scores"])

    return guess


def _kept(path: Path) -> dict[str, Any]:
    """Nothing where there is no such file, or a damaged one: it is made again from the same model and images."""
    try:
        kept = json_value(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s); it is made again", path, error)
        return {}
    return kept if isinstance(kept, dict) else {}


def _are_scores(values: Any, n: int) -> bool:
    return isinstance(values, list) and len(values) == n and all(type(value) in (int, float) for value in values)


def _pixels(preparation: Preparation, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pixels of these named images, (n, C, S, S)."""
    if "model" in preparation.spec.targets:
        return read_array(preparation.folder / Files("model").inputs)[rows]
    return preparation.dataset.test.batch(preparation.images.positions[rows])


def model_samples(model: ViT, images: NDArray[np.float32], seed: int = 0) -> Samples:
    """Samples by site and place. images: (n, C, S, S). Some values of every tap and parameter.

    slope: for an activation, of its own image's lead of the largest logit over the second; for a weight, of the mean
    lead, over the mean lead.
    """
    rng = np.random.default_rng(seed)
    parts_of: dict[tuple[str, str], list[tuple[Float64s, Float64s]]] = {
        (site, "activation"): [] for site in taps(model)
    }
    parameters = dict(model.named_parameters())
    gradients = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    total = 0.0
    for image in torch.from_numpy(images):
        values, slopes, lead = _of_image(model, image[None], parameters, gradients)
        total += lead
        for site, value in values.items():
            flat = value.detach().double().flatten().numpy()
            at = rng.integers(len(flat), size=min(_VALUES, len(flat)))
            parts_of[site, "activation"].append((flat[at], slopes[site].double().flatten().numpy()[at] / lead))
    samples = {key: Sample(*map(np.concatenate, zip(*parts, strict=True))) for key, parts in parts_of.items()}
    for name, parameter in parameters.items():
        flat = parameter.detach().double().flatten().numpy()
        at = rng.integers(len(flat), size=min(_VALUES * len(images), len(flat)))
        samples[name, "weight"] = Sample(flat[at], gradients[name].double().flatten().numpy()[at] / max(total, _LEAST))
    return samples


_LEAST = 1e-9  # lead of an image that is all but undecided


def _of_image(
    model: ViT, image: Tensor, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """(value of every tap, gradient of the lead there, the lead); the parameters' gradients are added to ``gradients``."""
    values: dict[str, Tensor] = {}

    def noting(site: str) -> Callable[[torch.nn.Module, object, Tensor], None]:
        def note(_: torch.nn.Module, __: object, output: Tensor) -> None:
            values[site] = output

        return note

    handles = [tap.register_forward_hook(noting(site)) for site, tap in taps(model).items()]
    try:
        with torch.enable_grad():
            first, second = model.eval()(image).topk(2).values[0]
            lead = first - second
            wanted = [*values.values(), *parameters.values()]
            slopes = torch.autograd.grad(lead, wanted, materialize_grads=True)
    finally:
        for handle in handles:
            handle.remove()
    for name, slope in zip(parameters, slopes[len(values) :], strict=True):
        gradients[name].add_(slope)
    return values, dict(zip(values, slopes, strict=False)), max(float(lead.detach()), _LEAST)
