"""What other Vision Transformers have and our one model does not, recognised by the names of its parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from testbed.core.errors import TestbedError
from testbed.models.importers.facts.ledger import INSTEAD
from testbed.models.keys import KeyShapes, listed

_BY_NAME = {
    r"lora_[ABab]\b|lora_(embedding|magnitude)": "LoRA adapters (merge them first: merge_and_unload())",
    r"weight_(orig|mask)$": "pruning masks (make them permanent first: torch.nn.utils.prune.remove)",
    r"(parametrizations\.|weight_(g|v|u)$)": "reparametrised weights (remove the parametrisation first)",
    r"(\.SCB$|absmax|quant_map|_packed_params|weight_scale|zero_point|fake_quant)": "quantised weights (name the original)",
    r"(q_norm|k_norm|norm_q|norm_k|norm_k?q)\.": "normalised queries and keys (qk_norm)",
    r"(lambda_q1|lambda_k1|sub_norm)": "differential attention of several heads' lambdas",
    r"(\bls[12]\.|gamma_?[12]?$|layer_scale|lambda_?1$|layerscale)": "layer scale",
    r"(dist_token|distillation|head_dist|cls_classifier)": "a distillation token",
    r"(reg_token|register_token)": "register tokens",
    r"(rel_pos|relative_position|rope|rotary)": "relative or rotary positions",
    r"(attn_pool\.|probe$|attention_pool)": "attention pooling",
    r"(norm_pre|ln_pre|pre_layrnorm)\.": "a LayerNorm before the blocks",
    r"conv_bn_relu": "a convolutional stem with BatchNorm",
    r"(running_mean|running_var|num_batches_tracked)$": "BatchNorm",
    r"(attn|mlp)\.norm\.": "LayerNorms inside attention or MLP",
    r"attn\.gate\.": "gated attention",
    r"(w12|fc1_g|fc1_x|w_gate|gate_proj)\.": "gated MLPs",
    r"(attns|ffns|fns)\.\d": "parallel blocks",
    r"in_norm\.": "blocks with attention and MLP in one (parallel scaling)",
    r"reattn": "re-attention",
}
_BEFORE_THE_HEAD = r"(pre_logits|pooler)\."
_NORM_BIAS = r"(\.(?:norm\d?|ln_\d|layernorm_\w+|fc_norm|norm)|^(?:norm|fc_norm))\.bias$"


def refuse_named_features(path: Path, names: Iterable[str]) -> None:
    """Raises TestbedError that names the first feature that these names speak for."""
    names = list(names)
    for pattern, feature in _BY_NAME.items():
        if keys := [name for name in names if re.search(pattern, name)]:
            raise TestbedError(f"{path} uses {feature}, which is not supported; {INSTEAD} (its keys: {listed(keys)})")


def refuse_layers_before_the_head(path: Path, names: Iterable[str]) -> None:
    """Raises TestbedError where a layer stands between the tokens and the head."""
    if keys := [name for name in names if re.search(_BEFORE_THE_HEAD, name)]:
        raise TestbedError(f"{path} uses a layer before the head: not supported; {INSTEAD} (its keys: {listed(keys)})")


def refuse_known_gaps(path: Path, missing: Collection[str], final_norm: Collection[str]) -> None:
    """Raises TestbedError that says what it means that these names are all that is missing, where that is known.

    ``final_norm``: the names of the norm after the blocks.
    """
    if all(name.endswith("bias") for name in missing):
        norms = [name for name in missing if re.search(_NORM_BIAS, name)]
        what = "norms without bias (RMSNorm, or LayerNorm without it)" if norms else "linear maps without bias"
    elif all(".to_out." in name for name in missing):
        what, norms = "attention without a projection (one head as wide as the model)", []
    elif set(missing) == set(final_norm):
        what, norms = "no LayerNorm after the blocks", []
    else:
        return
    raise TestbedError(f"{path} has {what}: not supported; {INSTEAD} (missing: {listed(norms or missing)})")


def refuse_gated_mlps(path: Path, fc1: Iterable[str], fc2: Iterable[str], shapes: KeyShapes) -> None:
    """Raises TestbedError where every MLP's first map has twice the rows that its second one takes."""
    pairs = [(shapes[a], shapes[b]) for a, b in zip(fc1, fc2, strict=True)]
    if pairs and all(len(a) == len(b) == 2 and a[0] == 2 * b[1] for a, b in pairs):
        raise TestbedError(f"{path} uses gated MLPs (SwiGLU, GEGLU), which are not supported; {INSTEAD}")
