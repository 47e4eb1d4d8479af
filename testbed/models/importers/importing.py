"""A checkpoint of another library -> a model of ours that computes the same logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import sha256_file, sha256_json
from testbed.models.config import ViTConfig
from testbed.models.importers.facts.described import CONFIG, Described, described
from testbed.models.importers.facts.families import refuse_families
from testbed.models.importers.facts.inference import inferred_config
from testbed.models.importers.facts.ledger import INSTEAD, FactSource, Ledger, Told, assumed
from testbed.models.importers.facts.stated import StatedFacts
from testbed.models.importers.facts.stated import stated as checked
from testbed.models.importers.facts.unsupported import (
    refuse_gated_mlps,
    refuse_known_gaps,
    refuse_layers_before_the_head,
    refuse_named_features,
)
from testbed.models.importers.head import with_head
from testbed.models.importers.layout import KeyNames, Layout
from testbed.models.importers.layouts import ANCHORS, names_in, recognised
from testbed.models.importers.packed import unpacked
from testbed.models.importers.read.checkpoint import WeightSet, as_float32, loaded, weight_set
from testbed.models.importers.read.files import WeightsFile, weights_file
from testbed.models.keys import listed, misfits
from testbed.models.vit import ViT
from testbed.models.weights import describes_model, load_model

_ALWAYS_FROM_THE_FILE = ("image", "channels", "classes")
_TOKENS = ("pos_embed", "cls_token", "dist_token", "registers")


@dataclass(frozen=True)
class ImportedModel:
    """``model`` is in eval mode. ``facts``: every fact of it and where each is from. ``tensors`` are the file's, under
    the names of the library's own state dict; ``sha256`` is of the file or files, ``config_json`` the one beside it.
    ``model_type``: which of Hugging Face's models it is; ``unused``: starts of names that its logits do not read."""

    model: ViT
    config: ViTConfig
    layout: str
    facts: tuple[Told, ...]
    file: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    config_json: Described | None = None
    model_type: str = ""
    unused: tuple[str, ...] = ()

    @property
    def assumed(self) -> tuple[str, ...]:
        """A line for each fact that neither the file nor anybody told and that was taken as is usual."""
        return assumed(self.facts)

    @property
    def weights(self) -> str:
        """The set of weights in the file, "" where the file is one."""
        return next((str(row.value) for row in self.facts if row.key == "weights"), "")


def import_weights(
    path: Path, layout: str | None = None, *, data_set: Mapping[str, int] | None = None, **stated: Any
) -> ImportedModel:
    """The model of a file or folder in the layout of vit-pytorch (old, current), timm, torchvision or Hugging Face, or
    of a file that ``save_model`` wrote.

    The layout is recognised from the names of the keys unless given, the architecture from the shapes. What shapes
    cannot tell is, first come first served, what is ``stated`` (the keys of ``STATED_KEYS``: ``heads``, ``activation``,
    ``eps``, ``weights``, ...), what the ``data_set`` has (classes, channels), what a config.json beside the file says
    (timm's or Hugging Face's), or the library's default; ``facts`` says which. What the shapes tell must agree.

    Raises UsageError for what must be stated or is wrongly stated; TestbedError for an unreadable file (nothing in it
    is executed), for missing, extra or misshapen keys (listed) and for features that ``ViT`` does not have.
    """
    values = checked(stated)
    file = weights_file(path)
    if describes_model(file.path):
        return _own(file, values, {**(data_set or {})}, layout)
    chosen = weight_set(file.path, loaded(file), values.get("weights"), ANCHORS)
    chosen = replace(chosen, tensors=unpacked({name: t for name, t in chosen.tensors.items() if t.numel()}))
    known = _recognised(file.path, chosen, layout)
    chosen = _without_unused(known, chosen)
    config_json, config_row = _config_json(file.path.parent, known, values)
    said: dict[FactSource, Mapping[str, Any]] = {"stated": values, "data set": data_set or {}}
    if config_json is not None:
        said["config.json"] = config_json.values
    ledger = Ledger(said, str(file.path.parent / CONFIG))
    ledger.rows += [
        *_file_rows(chosen, values),
        Told("layout", known.name, "stated" if layout else "file"),
        *config_row,
    ]
    tensors, names = _complete(file.path, known, chosen, values.get("head"), ledger)
    traits = names_in(known, tensors)[0]
    ours = _positions_before_registers(names, tensors) if known.registers_last and traits.registers else tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    try:
        config = inferred_config(known, traits, names, shapes, ledger)
    except (UsageError, TestbedError) as error:
        raise type(error)(f"{path}: {error}") from error
    model = _empty(config)
    if problem := misfits(_expected(model, names), {n: _with_batch(n, s, names) for n, s in shapes.items()}):
        raise TestbedError(f"{path} does not fit together as {known.name} of width {config.width}: {problem}")
    model.load_state_dict({name: _joined(name, theirs, ours) for name, theirs in names.items()}, assign=True)
    return ImportedModel(
        model.eval(),
        config,
        known.name,
        tuple(ledger.rows),
        file.path,
        _sha256(file),
        tensors,
        config_json,
        known.model_type,
        known.unused,
    )


def _recognised(path: Path, chosen: WeightSet, asked: str | None) -> Layout:
    """The layout. Raises TestbedError that names a feature which no model of ours has, where names speak of one."""
    try:
        known = recognised(chosen.tensors, asked, str(path))
    except TestbedError as error:
        if not isinstance(error, UsageError):
            described(path.parent)  # says which model it is
            refuse_families(path, chosen.tensors)
            refuse_named_features(path, chosen.tensors)
        raise
    _, names = names_in(known, chosen.tensors)
    spoken_for = {theirs for group in names.values() for theirs in group}
    extra = [name for name in chosen.tensors if name not in spoken_for and not name.startswith(known.unused)]
    refuse_families(path, extra)
    refuse_named_features(path, extra)
    return known


def _config_json(folder: Path, known: Layout, values: StatedFacts) -> tuple[Described | None, list[Told]]:
    """The config.json beside the weights, if it is of the library that they are of, and the row that says so."""
    description = described(folder)
    if description is None:
        there = (folder / CONFIG).is_file()
        return None, [Told("config.json", "not read", "file", "neither timm's nor Hugging Face's")] if there else []
    if description.library != known.name:
        return None, [
            Told("config.json", "not read", "file", f"it is {description.library}'s, the weights are {known.name}'s")
        ]
    if lacking := [key for key in description.lacks if key not in values]:
        raise UsageError(
            f"{description.path} names timm's architecture {description.model!r}, and only timm knows its {', '.join(lacking)}:"
            f" pip install timm, or state them: {' '.join(f'--set {key}=...' for key in lacking)}"
        )
    return description, [Told("config.json", description.model, "config.json", f"{description.library}, read")]


def _file_rows(chosen: WeightSet, values: StatedFacts) -> list[Told]:
    rows = []
    if chosen.name:
        rows.append(Told("weights", chosen.name, "stated" if "weights" in values else "file"))
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in chosen.tensors.values()})
    rows.append(
        Told("stored_as", ", ".join(types), "file", "" if types == ["float32"] else "widened to float32, exactly")
    )
    if chosen.left_out:
        count = len(chosen.left_out)
        rows.append(Told("left_out", count, "file", f"tensors outside the model: {listed(chosen.left_out)}"))
    return rows


def _complete(
    path: Path, known: Layout, chosen: WeightSet, head: str | None, ledger: Ledger
) -> tuple[dict[str, Tensor], KeyNames]:
    """The tensors, float32, and their names, every one of which is there; TestbedError that says what is not."""
    traits, names = names_in(known, chosen.tensors)
    tensors, row = with_head(path, names, chosen, head, 2 if known.pooling == "cls_and_mean" else 1)
    wanted = {theirs: () for group in names.values() for theirs in group}
    if problem := misfits(wanted, dict.fromkeys(tensors, ())):
        refuse_layers_before_the_head(path, [name for name in tensors if name not in wanted])
        if tensors.keys() <= wanted.keys():
            final_norm = [*names.get("norm.weight", ()), *names.get("norm.bias", ())]
            refuse_known_gaps(path, [name for name in wanted if name not in tensors], final_norm)
        if known.pos_embed not in tensors and not known.fixed_positions:
            problem += "; without a position table the size of the images is unknown"
        raise TestbedError(f"{path} is not a complete {known.name} model: {problem}; for another model: {INSTEAD}")
    tensors = as_float32(path, tensors)
    fc1, fc2 = ([names[f"block.{n}.mlp.{fc}.weight"][0] for n in range(traits.depth)] for fc in ("fc1", "fc2"))
    refuse_gated_mlps(path, fc1, fc2, {name: tuple(t.shape) for name, t in tensors.items()})
    ledger.rows.append(row)
    return tensors, names


def _own(file: WeightsFile, values: StatedFacts, data_set: Mapping[str, int], layout: str | None) -> ImportedModel:
    if layout is not None or set(values) - set(_ALWAYS_FROM_THE_FILE):
        raise UsageError(
            f"{file.path} says its own architecture; leave out the layout, heads, pooling and LayerNorm epsilon"
        )
    model = load_model(file.path)
    for name in _ALWAYS_FROM_THE_FILE:
        have = getattr(model.config, name)
        for want in (values.get(name), data_set.get(name)):
            if want not in (None, have):
                raise UsageError(f"{file.path}: the model has {name} = {have}, not {want}: made for another data set?")
    rows = (Told("layout", "testbed", "file"), *(Told(k, v, "file") for k, v in model.config.to_json().items()))
    return ImportedModel(model, model.config, "testbed", rows, file.path, _sha256(file), dict(model.state_dict()))


def _sha256(file: WeightsFile) -> str:
    hashes = [sha256_file(shard) for shard in file.shards]
    return hashes[0] if len(hashes) == 1 else sha256_json(hashes)


def _empty(config: ViTConfig) -> ViT:
    if config.position == "sincos_2d":  # a table that is computed, not loaded
        return ViT(config)
    with torch.device("meta"):
        return ViT(config)


def _expected(model: ViT, names: KeyNames) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of the file must have."""
    expected = {}
    for ours, parameter in model.named_parameters():
        rows, *rest = parameter.shape
        for theirs in names[ours]:
            expected[theirs] = (rows // len(names[ours]), *rest)
    return expected


def _with_batch(name: str, shape: tuple[int, ...], names: KeyNames) -> tuple[int, ...]:
    """Newer vit-pytorch stores CLS and positions without the leading 1, CLIP CLS without both."""
    tables = [theirs for ours in _TOKENS for theirs in names.get(ours, ())]
    return (*(1,) * (3 - len(shape)), *shape) if name in tables else shape


def _joined(ours: str, theirs: tuple[str, ...], tensors: Mapping[str, Tensor]) -> torch.nn.Parameter:
    tensor = torch.cat([tensors[name] for name in theirs]) if len(theirs) > 1 else tensors[theirs[0]]
    return torch.nn.Parameter(tensor.reshape(1, -1, tensor.shape[-1]) if ours in _TOKENS else tensor)


def _without_unused(known: Layout, chosen: WeightSet) -> WeightSet:
    """What the classifier does not read is left out, and listed as such."""
    unused = {name: tensor for name, tensor in chosen.tensors.items() if name.startswith(known.unused)}
    kept = {name: tensor for name, tensor in chosen.tensors.items() if name not in unused}
    return replace(chosen, tensors=kept, left_out=chosen.left_out | unused)


def _positions_before_registers(names: KeyNames, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLS with its position added, which the library does before it puts the registers in between; the others' positions."""
    cls_token, pos_embed = names["cls_token"][0], names["pos_embed"][0]
    table = tensors[pos_embed].flatten(0, -2)
    return {**tensors, cls_token: tensors[cls_token] + table[:1], pos_embed: table[1:]}
