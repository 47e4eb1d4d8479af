"""What is wrong with a spec, in the words of the file that somebody wrote: all of it at once, a line each.

Pydantic finds what does not fit; its own words speak of its types. What is wanted is told from the same annotations.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from testbed.campaign.spec.fields import Complaint, Refused
from testbed.core.errors import SeveralErrors, UsageError
from testbed.core.words.nearest import meant

KeyPath = tuple[str | int, ...]

_SHOWN = 60  # characters of a value
_BARE = re.compile(r"^[A-Za-z0-9_-]+$")


def refusal(reasons: Sequence[Complaint], name: str) -> UsageError:
    """The error for a spec with something wrong. name: of the file, or what else the spec is from."""
    lines = [f"{complaint.key}: {complaint.message}" if complaint.key else complaint.message for complaint in reasons]
    if len(lines) == 1:
        return UsageError(f"{name}: {lines[0]}")
    return SeveralErrors(f"{name}: {len(lines)} things are wrong", lines)


def complaints(error: ValidationError, values: Any, model: type[BaseModel]) -> list[Complaint]:
    """Lines on what pydantic refused, each once, in the order of the file. values: what it was given, as of
    ``model``."""
    problems = [
        (_path(problem["loc"], values, problem["type"]), problem) for problem in error.errors(include_url=False)
    ]
    known = [(path, problem["type"]) for path, problem in problems]
    lines: dict[Complaint, None] = {}
    for path, problem in problems:
        if _is_of_a_union(problem["type"]) and any(_says_more(other, kind, path) for other, kind in known):
            continue
        lines |= dict.fromkeys(_complaints_of(path, problem, model))
    return list(lines)


def key_path(path: KeyPath) -> str:
    """The key as the file has it: faults[0].bits."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.match(part) else json.dumps(part, ensure_ascii=False))
    return text


def _path(location: Sequence[str | int], values: Any, kind: str) -> KeyPath:
    """The keys in a pydantic location, which names members of unions too: those lead nowhere in the values."""
    path: list[str | int] = []
    for number, part in enumerate(location):
        in_table = isinstance(values, Mapping) and part in values
        in_list = isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        if in_table or in_list:
            values = values[part]
        elif kind != "missing" or number < len(location) - 1:
            continue
        path.append(part)
    return tuple(path)


def _is_of_a_union(kind: str) -> bool:
    return kind not in ("missing", "extra_forbidden", "value_error")


def _says_more(other: KeyPath, kind: str, path: KeyPath) -> bool:
    """Than that a value is of none of the kinds that may be there: an entry of it is wrong, or why it is."""
    return (len(other) > len(path) and other[: len(path)] == path) or (other == path and kind == "value_error")


def _complaints_of(path: KeyPath, problem: Mapping[str, Any], model: type[BaseModel]) -> Iterator[Complaint]:
    key, kind = key_path(path), problem["type"]
    if kind == "extra_forbidden":
        yield Complaint(key, _unknown_key(path, model))
    elif kind == "missing":
        yield Complaint(key, f"missing; {wanted(*_annotation(model, path))} is wanted")
    elif kind == "value_error":
        error = problem["ctx"]["error"]
        inner = error.complaints if isinstance(error, Refused) else [Complaint("", str(error))]
        for complaint in inner:
            joint = "." if key and complaint.key and not complaint.key.startswith("[") else ""
            yield Complaint(key + joint + complaint.key, complaint.message)
    else:
        yield Complaint(key, _mismatch(path, problem, model))


# ---- keys


def _unknown_key(path: KeyPath, model: type[BaseModel]) -> str:
    key, table = str(path[-1]), _model_at(model, path[:-1])
    known = _fields(table)
    homes = [name for name, fields in _tables(model) if key in fields and fields != known]
    near = meant(key, known)
    if homes and not near:
        near = f"; it is a key of {' and '.join(homes)}."
    return f"unknown key{near or ';'} {'Known' if near else 'known'} keys there: {', '.join(known)}"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the keys of the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, Mapping[str, FieldInfo]]]:
    """("[engine]", its fields) of every table of a spec."""
    for name, field in _fields(model).items():
        for base, _ in _members(field.annotation):
            if _is_model(base):
                yield f"[{name}]", _fields(base)
            elif get_origin(base) is tuple and _is_model(get_args(base)[0]):
                yield f"[[{name}]]", _fields(get_args(base)[0])


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """The table at a path, of those that have fixed keys."""
    annotation, _ = _annotation(model, path)
    return next(base for base, _ in _members(annotation) if _is_model(base))


def _annotation(model: type[BaseModel], path: KeyPath) -> tuple[Any, Sequence[Any]]:
    """(the type, what else is asked of it) at a path."""
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for part in path:
        for base, _ in _members(annotation):
            if _is_model(base) and (field := _fields(base).get(str(part))) is not None:
                annotation, metadata = field.annotation, field.metadata
            elif get_origin(base) is tuple and isinstance(part, int):
                annotation, metadata = get_args(base)[0], ()
            elif get_origin(base) is dict:
                annotation, metadata = get_args(base)[1], ()
            else:
                continue
            break
    return annotation, metadata


# ---- values


def _mismatch(path: KeyPath, problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    value, (annotation, metadata) = problem["input"], _annotation(model, path)
    members = _members(annotation)
    if isinstance(value, Mapping) and any(
        get_origin(base) is tuple and _is_model(get_args(base)[0]) for base, _ in members
    ):
        return f"is one table; write [[{path[-1]}]], in two brackets, above each section"
    if any(_is_model(base) for base, _ in members):
        return f"{shown(value)} is not a table; write {_heading(path)} above its keys"
    if problem["type"] == "too_long":
        return f"has {len(value)} entries; there may be {problem['ctx']['max_length']}"
    if value == [] or value == {}:
        return f"is empty; {wanted(annotation, metadata)} is wanted"
    options = [option for base, _ in members if get_origin(base) is Literal for option in get_args(base)]
    near = meant(value, map(str, options)).rstrip("?") if isinstance(value, str) else ""
    return f"{shown(value)} is not {wanted(annotation, metadata)}{near or _as_list(path, value, members)}"


def _heading(path: KeyPath) -> str:
    return f"[[{path[-2]}]]" if isinstance(path[-1], int) else f"[{key_path(path)}]"


def _as_list(path: KeyPath, value: Any, members: Sequence[tuple[Any, Any]]) -> str:
    """Where a list is wanted and one entry was written."""
    lists = any(get_origin(base) is tuple for base, _ in members)
    if lists and not isinstance(value, list | tuple | Mapping):
        return f"; write {path[-1]} = [{shown(value)}], for example"
    return ""


def shown(value: Any) -> str:
    """The value as TOML has it, if that is short."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    try:
        text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=True)
    except TypeError:  # a date, for example
        text = str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in itself
        text = "what is there"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def wanted(annotation: Any, metadata: Sequence[Any] = (), several: bool = False) -> str:
    """ "a whole number from 0 to 31", "text", "one of flip, stuck0 or a list of text"; several: in the plural."""
    kinds = [_of_member(base, [*metadata, *own], several) for base, own in _members(annotation)]
    return " or ".join(dict.fromkeys(kinds))


def _of_member(base: Any, metadata: Sequence[Any], several: bool) -> str:
    if get_origin(base) is Literal:
        options = get_args(base)
        if several:
            return f"names out of {', '.join(map(str, options))}"
        return f"one of {', '.join(map(str, options))}" if len(options) > 1 else repr(options[0])
    if get_origin(base) is tuple:
        return f"a list of {wanted(get_args(base)[0], several=True)}"
    if get_origin(base) is dict or _is_model(base):
        return "tables" if several else "a table"
    bounds = _bounds(metadata, whole=base is int)
    names = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), bool: ("true or false",) * 2}
    return names.get(base, (_text_kind(metadata),) * 2)[several] + bounds


def _text_kind(metadata: Sequence[Any]) -> str:
    if any(getattr(constraint, "pattern", None) for constraint in metadata):
        return "a name of letters, digits, dots, dashes and underscores that begins with a letter or a digit"
    return "text"


def _bounds(metadata: Sequence[Any], whole: bool) -> str:
    limits = {
        name: getattr(constraint, name)
        for constraint in metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(constraint, name)
    }
    if whole and "lt" in limits:
        limits["le"] = limits.pop("lt") - 1
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    bounds = [f"{words[name]} {limits[name]}" for name in words if name in limits]
    return " " + " and ".join(bounds) if bounds else ""


def _members(annotation: Any) -> list[tuple[Any, list[Any]]]:
    """(type, what else is asked of it) of each member of a union but None; of another type, itself."""
    if get_origin(annotation) is Annotated:
        base, *more = get_args(annotation)
        asked = [
            constraint for part in more for constraint in (part.metadata if isinstance(part, FieldInfo) else [part])
        ]
        return [(member, [*own, *asked]) for member, own in _members(base)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) if part is not type(None) for member in _members(part)]
    return [(annotation, [])]


def _is_model(base: Any) -> bool:
    return isinstance(base, type) and issubclass(base, BaseModel)
