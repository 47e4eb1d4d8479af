"""Preprocessing that a user or a library states: text of the command line, a table of a spec, a file.

"cifar10"                                              a preset
"crop=0.9,interpolation=bicubic,mean=0.5,std=0.5"      keys, or a preset and keys: "imagenet,crop=0.9"
{resize = "squash", size = 224, mean = [...], ...}     the same as a table
preprocessor_config.json, config.json, FILE.toml       Hugging Face's, timm's, or a table of these keys
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.parsing import json_value, toml_value
from testbed.core.words.nearest import unknown
from testbed.data.preprocess.libraries import from_huggingface, from_timm, is_huggingface, timm_part
from testbed.data.preprocess.steps import (
    INTERPOLATIONS,
    OFFSETS,
    PREPROCESS,
    RESIZES,
    PerChannel,
    Preprocess,
    preprocess_named,
)

_LARGEST = 1e6  # of what pixels are multiplied by, or less
_MOST_PIXELS = 8192  # of a side
KEYS = ("resize", "size", "crop", "margin", "resize_to", "interpolation", "mean", "std", "scale", "offset")
_FILES = ("preprocessor_config.json", "processor_config.json", "config.json")  # in a model's folder, in this order


def preprocess_from(source: str | Path | Mapping[str, Any]) -> Preprocess:
    """The preprocessing that a configuration states, read from a file, a model's folder, or its parsed content.

    Known are timm's ``config.json`` (``pretrained_cfg``, or that dict itself: input_size, interpolation, crop_pct,
    crop_mode, mean, std), Hugging Face's ``preprocessor_config.json`` (do_resize, size, resample, do_center_crop,
    crop_size, rescale_factor, image_mean, image_std), and a TOML or JSON table of ``Preprocess``'s own fields and
    ``resize_to`` (pixels). In a folder, ``preprocessor_config.json`` is looked for first, then ``config.json``.

    Raises UsageError for a file that is not there, that says nothing of preprocessing, or that wants what is not done
    here (images that are not square, borders, ...), by name; TestbedError for one that cannot be read.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source, "preprocess")
    path = Path(source).expanduser()
    if path.is_dir():
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files:
            raise UsageError(f"preprocess: {path} holds no {' and no '.join(_FILES)}; name the file, or state the keys")
        path = files[0]
    values = _read(path)
    if is_huggingface(values) and not _processor_type(values):
        values = {**values, "image_processor_type": _model_type(path.parent / "config.json")}
    return _from_mapping(values, str(path))


def preprocess_asked(asked: str | Mapping[str, Any] | Preprocess) -> Preprocess:
    """What a user wrote: a preset's name, keys, a file or a table. Raises as ``preprocess_from``."""
    if isinstance(asked, Preprocess):
        return asked
    if isinstance(asked, Mapping):
        return preprocess_from(asked)
    if asked in PREPROCESS:
        return PREPROCESS[asked]
    if asked.lstrip().startswith("{"):
        return _from_mapping(_parsed(asked, "preprocess", json_value), "preprocess")
    if "=" in asked and not Path(asked).expanduser().exists():
        return _from_mapping(_pairs(asked), "preprocess")
    if Path(asked).suffix in (".json", ".toml") or Path(asked).expanduser().exists():
        return preprocess_from(asked)
    return preprocess_named(asked)  # refuses it, and says what is known


def kept(asked: str | Mapping[str, Any] | Preprocess | None) -> str | dict[str, JsonValue] | None:
    """What stands for ``asked`` in a spec or a run's record: a preset's name, or the values; never a file's path."""
    if asked is None:
        return None
    chosen = preprocess_asked(asked)
    return chosen.name if PREPROCESS.get(chosen.name) == chosen else chosen.to_json()


def _from_mapping(values: Mapping[str, Any], where: str) -> Preprocess:
    if isinstance(values.get("image_processor"), Mapping):  # processor_config.json of newer versions
        values = values["image_processor"]
    timm = timm_part(values)
    if timm is None and not is_huggingface(values):
        return _own(values, where)
    try:
        return checked(from_huggingface(values, where) if timm is None else from_timm(timm, where), where)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise UsageError(f"{where}: its preprocessing is damaged ({error}); repair it, or state the keys") from error


def _own(values: Mapping[str, Any], where: str) -> Preprocess:
    if "model_type" in values or "architectures" in values:
        raise UsageError(f"{where} says nothing of preprocessing; name a preprocessor_config.json, or state the keys")
    strange = [key for key in values if key not in (*KEYS, "name", "preset")]
    if strange:
        raise UsageError(
            f"{where}: {unknown('key', strange[0], ['preset', *KEYS])}, or the keys of timm's pretrained_cfg"
            " or of Hugging Face's preprocessor_config.json"
        )
    preset = preprocess_named(str(values["preset"])) if "preset" in values else None
    if preset is None and not {"mean", "std"} <= values.keys():
        missing = "mean" if "mean" not in values else "std"
        raise UsageError(
            f"{where}: {missing} is missing; state mean and std per channel (mean 0, std 1: not normalised), or start"
            " from a preset, such as imagenet,crop=0.9"
        )
    start = preset or PREPROCESS["none"]
    return checked(_changed(start, values, where), where)


def _changed(start: Preprocess, values: Mapping[str, Any], where: str) -> Preprocess:
    """``start`` with the stated values in place of its own; ``crop``, ``margin`` and ``resize_to`` replace each other."""
    own: dict[str, Any] = {field: getattr(start, field) for field in Preprocess.__dataclass_fields__}
    own |= {key: values[key] for key in ("resize", "interpolation", "offset") if key in values}
    own |= {key: _floats(values[key], key, where) for key in ("mean", "std") if key in values}
    own |= {key: _number(values[key], key, where) for key in ("scale",) if key in values}
    if "size" in values:
        own["size"] = _whole(values["size"], "size", where)
    sides = [key for key in ("crop", "margin", "resize_to") if key in values]
    if len(sides) > 1:
        raise UsageError(f"{where}: {sides[0]} and {sides[1]} say the same; leave one out")
    if sides:
        own |= {"crop": None, "margin": 1.0}
    if sides == ["resize_to"]:
        if own["size"] is None:
            raise UsageError(f"{where}: resize_to needs size, the pixels of the model input; state it, or crop")
        own["margin"] = _whole(values["resize_to"], "resize_to", where) / own["size"]
    elif sides:
        own[sides[0]] = _number(values[sides[0]], sides[0], where)
    own["name"] = str(values.get("name", "stated"))
    return Preprocess(**own)


def checked(chosen: Preprocess, where: str) -> Preprocess:
    """Raises UsageError for a value that is not possible, by its key."""
    for key, value, known in (
        ("resize", chosen.resize, RESIZES),
        ("interpolation", chosen.interpolation, INTERPOLATIONS),
        ("offset", chosen.offset, OFFSETS),
    ):
        if value not in known:
            raise UsageError(f"{where}: {key} is one of {', '.join(known)}, not {value!r}")
    if len(chosen.mean) != len(chosen.std) or len(chosen.mean) not in (1, 3):
        raise UsageError(
            f"{where}: mean has {len(chosen.mean)} and std {len(chosen.std)} values; give both one, or one per channel"
        )
    if not all(
        abs(number) <= _LARGEST for number in (*chosen.mean, *chosen.std, chosen.scale, chosen.margin)
    ):  # nor NaN
        raise UsageError(f"{where}: mean, std, scale and margin are numbers of at most {_LARGEST:g}")
    if min(chosen.std) <= 0 or chosen.scale <= 0:
        raise UsageError(f"{where}: std and scale are above 0, not {list(chosen.std)} and {chosen.scale}")
    if chosen.size is not None and not 1 <= chosen.size <= _MOST_PIXELS:
        raise UsageError(f"{where}: size is 1 to {_MOST_PIXELS:,} pixels, not {chosen.size}")
    if chosen.crop is not None and not 0 < chosen.crop <= 1:
        raise UsageError(f"{where}: crop is the share of the resized side that is kept, in (0, 1], not {chosen.crop}")
    if not chosen.margin >= 1:
        raise UsageError(f"{where}: images are resized to {chosen.margin:g} of the model input's size, which is less")
    return chosen


def _pairs(text: str) -> dict[str, str | list[str]]:
    """ "imagenet,crop=0.9,mean=0.1 0.2 0.3": a list has spaces or slashes between its numbers, or is bracketed."""
    values: dict[str, str | list[str]] = {}
    for part in _split_at_commas(text):
        key, equals, value = (chunk.strip() for chunk in part.partition("="))
        if not equals:
            if values or key not in PREPROCESS:
                raise UsageError(
                    f"preprocess {text!r}: {key!r} is no KEY=VALUE, and no preset at the beginning; write such as"
                    " imagenet,crop=0.9,interpolation=bicubic"
                )
            values["preset"] = key
        else:
            numbers = value.strip("[]").replace("/", " ").replace(",", " ").split()
            values[key] = numbers if key in ("mean", "std") else value
    return values


def _split_at_commas(text: str) -> list[str]:
    """Splits at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"preprocess: there is no file {path}; name one, or a preset such as imagenet") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TestbedError(f"preprocess: {path} cannot be read ({error}); repair or replace it") from error
    return _parsed(text, str(path), toml_value if path.suffix == ".toml" else json_value)


def _parsed(text: str, where: str, parse: Any) -> Mapping[str, Any]:
    try:
        values = parse(text)
    except ValueError as error:  # of json and of tomllib
        raise UsageError(f"{where} is not {'TOML' if parse is toml_value else 'JSON'}: {error}") from error
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} holds no table of keys but a {type(values).__name__}")
    inner = values.get("preprocess")
    return inner if isinstance(inner, Mapping) and len(values) == 1 else values


def _processor_type(values: Mapping[str, Any]) -> object:
    return values.get("image_processor_type") or values.get("feature_extractor_type")


def _model_type(path: Path) -> str | None:
    """The model type in the config.json beside a preprocessor_config.json that does not say what it is for."""
    try:
        values = json_value(path.read_bytes())
    except (OSError, ValueError):
        return None
    return str(values["model_type"]) if isinstance(values, Mapping) and "model_type" in values else None


def _floats(value: Any, key: str, where: str) -> PerChannel:
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_number(item, key, where) for item in values)


def _number(value: Any, key: str, where: str) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"{where}: {key} is a number, not {value!r}")


def _whole(value: Any, key: str, where: str) -> int:
    number = _number(value, key, where)
    if not number.is_integer():
        raise UsageError(f"{where}: {key} is a whole number of pixels, not {value!r}")
    return int(number)
