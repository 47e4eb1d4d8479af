"""What a model costs before anything is run: parameters, and multiply-accumulates of one image's forward pass."""

from __future__ import annotations

import onnx

from testbed.bench.operations import operations_of
from testbed.core.protected import is_protected
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT


def parameter_count(model: ViT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def mac_count(config: ViTConfig) -> int:
    """Multiply-accumulates in matrix products and convolutions, one image. Norms, softmax and activations are not counted
    (a library's counter, torch.utils.flop_counter, leaves them out too, and says 2 operations per MAC).

    N tokens, P patches of p^2 C values, D width, d head width, H heads and M neurons of a block, K classes: P p^2 C D for
    the patches; per block 3 N D H d for q, k and v, 2 H N^2 d for scores and context, N H d D for the projection and
    2 N D M for the MLP (3 N D M for a gated one); D K for the head, twice that where it reads two vectors or there are two.
    """
    n, d = config.tokens, config.width
    total = config.grid**2 * config.patch**2 * config.channels * d + d * config.classes * (
        1 + (config.distillation == "head" or config.head_inputs > d)
    )
    for heads, neurons in zip(config.heads, config.mlp, strict=True):
        inner = heads * config.head_width
        # two maps of half the head's width for differential attention: scores cost the same, the maps are mixed before v
        total += 4 * n * d * inner + 2 * n * n * inner + (2 + config.gated_mlp) * n * d * neurons
    return total


def deployed_macs(file: bytes, config: ViTConfig) -> int:
    """Multiply-accumulates of one image in a deployed ONNX file: of a protected one its own, with those of its checks and
    copies; of a plain one those of the model. Raises TestbedError for a protected file of which a shape isn't known."""
    proto = onnx.load_from_string(file)
    return operations_of(proto).total_macs if is_protected(proto) else mac_count(config)
