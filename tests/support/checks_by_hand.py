"""Checks and copies of protection, written by hand in PyTorch and NumPy from what they are defined by.

Of a file nothing is read but what its metadata says: the names of its checks and their thresholds. Verdicts are three-valued:
an alarm for sure, none for sure, or None where rounding decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from testbed.models.vit import ViT
from tests.support.blocks import blocks_of
from tests.support.faulty_vit import Correction, FaultyPass

Place = Mapping[str, Any]
UNIT = 2.0**-24
LARGEST = float(np.finfo(np.float32).max)


class CheckedSum(NamedTuple):
    """What a check holds against its bounds, and the sum of the magnitudes that it is made of."""

    value: float
    size: float


def alarm_of(verdicts: Sequence[bool | None]) -> bool | None:
    """Whether any check raises an alarm; None where those that are not sure decide."""
    return True if True in verdicts else None if None in verdicts else False


def outside(value: float, slack: float, low: float, high: float) -> bool | None:
    """Whether a value is out of bounds, if it may be off by ``slack``."""
    if not np.isfinite(value):
        return True
    if value + slack < low or value - slack > high:
        return True
    return False if low <= value - slack and value + slack <= high else None


# ---- duplicates


def start_and_copy(golden: ViT, part: str, run: FaultyPass | Mapping[str, Tensor]) -> Tensor:
    """What a copy of a part gives: the part without a fault, of the same start."""
    sites = run.sites if isinstance(run, FaultyPass) else run
    _, number, *rest = part.split(".")
    block = blocks_of(golden)[int(number)]
    before = sites[f"block.{int(number) - 1}.mlp.residual"] if int(number) else sites["embed"]
    with torch.inference_mode():
        if not rest:
            return block(before)
        return (
            block.attn(block.norm1(before))
            if rest == ["attn"]
            else block.mlp(block.norm2(sites[f"block.{number}.attn.residual"]))
        )


def end_of(part: str) -> str:
    """The site that a part ends in."""
    if part.endswith(".attn"):
        return f"{part}.proj"
    return f"{part}.fc2" if part.endswith(".mlp") else f"{part}.mlp.residual"


def votes(golden: ViT, places: Sequence[Place]) -> dict[str, Correction]:
    """Of three copies of each part the majority: where the two first agree theirs, else the third's."""

    def voting(part: str) -> Correction:
        def vote(values: Tensor, before: Mapping[str, Tensor]) -> Tensor:
            copy = start_and_copy(golden, part, before)
            return torch.where(values == copy, values, copy)

        return vote

    return {end_of(place["name"]): voting(place["name"]) for place in places}


def copy_verdicts(golden: ViT, places: Sequence[Place], run: FaultyPass) -> Iterator[bool | None]:
    """Whether each part differs from its copy by anything. A fault in it that changes last bits at most may be rounded away, or
    not."""
    for place in places:
        assert place["low"] == place["high"] == 0, place
        end, copy = run.sites[end_of(place["name"])], start_and_copy(golden, place["name"], run)
        apart = float((end.double() - copy.double()).abs().max())
        if run.fault is None or not _is_in(run.fault, place["name"]):
            yield apart != 0
        else:
            yield None if apart <= 2 * UNIT * float(end.abs().max()) else True


def _is_in(site: str, part: str) -> bool:
    """Whether a site, or a weight, is computed in a part."""
    block, kind = part.rsplit(".", 1) if part.endswith(("attn", "mlp")) else (part, "")
    norm = {"attn": f"{block}.norm1", "mlp": f"{block}.norm2", "": block}[kind]
    return site.startswith((f"{part}.", f"{norm}.")) or site == norm


# ---- sums that are not finite


def finite_verdicts(places: Sequence[Place], run: FaultyPass) -> Iterator[bool | None]:
    """Whether the sum over each site, in float32 over tokens and then over the rest, is NaN or infinite. Where it is finite and
    magnitudes add up to more than that holds, the order decides."""
    for place in places:
        values = run.sites[place["name"]].double()
        values = values.reshape(-1, values.shape[-1])
        tokens = values.sum(0)
        sums = max(float(tokens.abs().max()), abs(float(tokens.sum())))
        if not np.isfinite(sums) or sums > LARGEST * 1.001:
            yield True
        else:
            no_order_matters = max(float(values.abs().sum(0).max()), float(tokens.abs().sum())) < LARGEST * 0.999
            yield False if no_order_matters else None


# ---- checksums


def sum_verdicts(golden: ViT, places: Sequence[Place], run: FaultyPass, clean: FaultyPass) -> Iterator[bool | None]:
    """Whether each check's value is out of its bounds; it may be off by twice what it was without a fault, and by what the
    numbers that the fault adds may be rounded by. clean: the same image without a fault."""
    for place in places:
        checked, usual = (CHECKS[place["kind"]](golden, place["name"], each) for each in (run, clean))
        of_fault = max(0.0, checked.size - usual.size)
        of_model = 4 * UNIT * usual.size if "activation" in place["kind"] else 2 * place["noise"]
        yield outside(checked.value, of_model + 4 * UNIT * of_fault, place["low"], place["high"])


def total(values: Tensor) -> CheckedSum:
    return CheckedSum(float(values.double().sum()), float(values.double().abs().sum()))


def product(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """Sum(Y) = sum over tokens of X, times the golden weight's sums, and the golden biases'."""
    with torch.no_grad():
        taken, made, weight, constant = _operands(golden, name, run)
    weight = weight.detach()
    outputs = [total(values) for values in made]
    tokens = taken.double().reshape(-1, taken.shape[-1]).sum(0)
    sums = weight.double().sum(1)
    wanted = float((tokens * sums).sum()) + constant
    size = sum(each.size for each in outputs) + float(
        (taken.double().abs().reshape(-1, taken.shape[-1]).sum(0) * sums.abs()).sum()
    )
    return CheckedSum(sum(each.value for each in outputs) - wanted, size)


def _operands(golden: ViT, name: str, run: FaultyPass) -> tuple[Tensor, list[Tensor], Tensor, float]:
    """What a product takes, what is summed of it, its weight (inputs, outputs), and what is added to the sum."""
    sites = run.sites
    if name == "embed":
        patches = _patches(golden, run.image)
        projection = golden.patch_embed.proj
        assert isinstance(projection, torch.nn.Linear)
        constant = patches.shape[1] * float(projection.bias.double().sum()) + float(golden.pos_embed.double().sum())
        constant += float(golden.cls_token.double().sum())
        return patches, [sites["embed"]], projection.weight.T, constant
    if name == "head":
        taken = sites["norm"] if golden.config.final_norm == "pooled" else sites["norm"][:, 0]
        return taken, [sites["head"]], golden.head.weight.T, float(golden.head.bias.double().sum())
    block = blocks_of(golden)[int(name.split(".")[1])]
    prefix, last = f"block.{name.split('.')[1]}", name.rpartition(".")[2]
    taken, module = {
        "v": (sites[f"{prefix}.norm1"], block.attn.qkv),
        "proj": (sites[f"{prefix}.attn.context"], block.attn.proj),
        "fc1": (sites[f"{prefix}.norm2"], block.mlp.fc1),
        "fc2": (sites[f"{prefix}.mlp.gelu"], block.mlp.fc2),
    }[last]
    biases = dict(module.named_parameters()).get("bias")
    bias = 0.0 if biases is None else float(biases.double().sum())
    return taken, [sites[part] for part in name.split("+")], module.weight.T, taken.shape[1] * bias


def _patches(golden: ViT, images: Tensor) -> Tensor:
    """(1, patches, values of a patch), in the order (row, column, channel)."""
    size = golden.config.patch
    blocks = images.unfold(2, size, size).unfold(3, size, size)  # (1, C, rows, columns, p, p)
    return blocks.permute(0, 2, 3, 4, 5, 1).reshape(1, -1, size * size * images.shape[1])


def live_product(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """Sum(A B) = (sum over rows of A) (sum over columns of B), in every head."""
    prefix = name.rpartition(".")[0]

    def get(part: str) -> Tensor:
        return run.sites[f"{prefix}.{part}"].double()

    if name.endswith("scores"):
        left, right, scale = get("q"), get("k").transpose(-1, -2), get("q").shape[-1] ** -0.5
        made = get("scores")
    else:
        left, right, scale = get("softmax"), get("v"), 1.0
        made = get("context")
    rows, columns = left.sum(-2), right.sum(-1)
    pairs = rows * columns * scale
    sizes = left.abs().sum(-2) * right.abs().sum(-1) * scale
    return CheckedSum(float(made.sum() - pairs.sum()), float(made.abs().sum() + sizes.sum()))


def softmax(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """Every row sums to 1."""
    maps = run.sites[name].double()
    rows = maps.shape[1] * maps.shape[2]
    return CheckedSum(float(maps.sum()) - rows, float(maps.abs().sum()) + rows)


def layer_norm(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """Mean 0 before gain and bias: the sum of (y - beta) / gamma over all tokens."""
    norm = dict(golden.named_modules())[name]
    assert isinstance(norm, torch.nn.LayerNorm)
    gain, bias = norm.weight.detach().double(), norm.bias.detach().double()
    values = run.sites[name].double()
    size = float((values / gain).abs().sum() + (bias / gain).abs().sum() * values.numel() / len(gain))
    return CheckedSum(float(((values - bias) / gain).sum()), size)


def residual(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """Sum(a + b) = sum(a) + sum(b)."""
    block = int(name.split(".")[1])
    stream = {
        "attn": f"block.{block - 1}.mlp.residual" if block else "embed",
        "mlp": f"block.{block}.attn.residual",
    }[name.split(".")[2]]
    branch = f"block.{block}." + {"attn": "attn.proj", "mlp": "mlp.fc2"}[name.split(".")[2]]
    parts = [total(run.sites[site]) for site in (name, stream, branch)]
    return CheckedSum(parts[0].value - parts[1].value - parts[2].value, sum(part.size for part in parts))


def activation(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """The sum itself."""
    return total(run.sites[name])


@cache
def tanh_less_exact() -> float:
    """The middle of how far GELU's tanh approximation lies above the exact function, over all x."""
    x = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    apart = torch.nn.functional.gelu(x, approximate="tanh") - torch.nn.functional.gelu(x)
    return float(apart.min() + apart.max()) / 2


def recomputed(golden: ViT, name: str, run: FaultyPass) -> CheckedSum:
    """How far the sum over tokens of any channel lies from that of GELU's approximation, less the middle of its error."""
    taken, made = (run.sites[site].double()[0] for site in (name.replace("gelu", "fc1"), name))
    again = torch.nn.functional.gelu(taken, approximate="tanh")
    off = again.sum(0) - made.sum(0) - len(made) * tanh_less_exact()
    return CheckedSum(float(off.abs().max()), float((again.abs() + made.abs()).sum(0).max()))


CHECKS: dict[str, Callable[[ViT, str, FaultyPass], CheckedSum]] = {
    "product": product,
    "live product": live_product,
    "softmax": softmax,
    "layer norm": layer_norm,
    "residual": residual,
    "activation": activation,
    "recomputed activation": recomputed,
}


# ---- guards


def guards(places: Sequence[Place]) -> dict[str, Correction]:
    """Values out of range become its ends, NaN 0."""

    def guarding(low: float, high: float) -> Correction:
        return lambda values, _: torch.where(torch.isnan(values), torch.zeros(()), values.clamp(low, high))

    return {place["name"]: guarding(place["low"], place["high"]) for place in places}
