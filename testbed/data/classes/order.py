"""The order of the classes: which output of the model stands for which class of the data set.

Class folders are in text order, as torchvision has them, so folders 0 ... 11 are classes 0, 1, 10, 11, 2, ...; timm
sorts naturally (0, 1, 2, ...), and a published model has an order of its own. ``classes`` of ``testbed.data.load``
states the model's: "natural", "text", "imagenet" (its 1,000 WordNet ids), the names, or a file of them.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.parsing import json_value
from testbed.data.classes.imagenet import IMAGENET, imagenet_wnids, with_wnids
from testbed.data.collection import Collection, Examples
from testbed.data.warn_once import warn_once

log = logging.getLogger(__name__)

Classes = str | Sequence[str]
ONLY_SOME = (
    "where the data set has only some of the model's classes, state them all, in the order of its outputs: --classes FILE,"
    " in a spec [data] classes = FILE"
)
_WNID = re.compile(r"n\d{8}\b")


def natural_key(name: str) -> list[Any]:
    """A key to sort as timm does: numbers by their value, letters without case."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


ORDERS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "natural": lambda names: sorted(names, key=natural_key),
    "text": lambda names: sorted(names),
}


def kept_classes(asked: Classes | None) -> str | tuple[str, ...] | None:
    """What stands for ``asked`` in a spec or a run's record: "natural", "text", "imagenet", or the names; never a path.

    Raises UsageError for a file that is not there or names no classes, TestbedError for one that cannot be read.
    """
    if asked is None or (isinstance(asked, str) and (asked in ORDERS or asked == IMAGENET)):
        return asked
    return tuple(_checked(list(asked), "classes") if not isinstance(asked, str) else classes_in(Path(asked)))


def classes_in(path: Path) -> list[str]:
    """The names in a file, in the model's order: one a line; or JSON, see ``classes_told``."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        orders = f"{', '.join(ORDERS)} and {IMAGENET}"
        raise UsageError(
            f"classes: there is no file {path}; name one, one class a line ({orders} need none)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TestbedError(f"classes: {path} cannot be read ({error}); give a text file, one class a line") from error
    if path.suffix != ".json" and not text.lstrip().startswith(("{", "[")):
        return _checked([line.strip() for line in text.splitlines() if line.strip()], str(path))
    try:
        names = classes_told(json_value(text), str(path))
    except ValueError as error:
        raise UsageError(f"classes: {path} is not JSON: {error}") from error
    if names is None:
        raise UsageError(f"{path} names no classes: give a list, {{index: name}}, or a config.json with id2label")
    return names


def classes_told(values: Any, where: str = "classes") -> list[str] | None:
    """The names that parsed JSON tells, in the model's order; None where it tells none.

    A list, {index: name}, {index: [wnid, name]}, {name: index}, {wnid: name} in the order of the ids, or a config.json:
    Hugging Face's ``id2label`` (unless it is LABEL_0, LABEL_1, ...), timm's ``label_names``. ImageNet's names get their
    WordNet ids. Raises UsageError for indexes with gaps, ids out of order and names told twice.
    """
    if isinstance(values, list):
        return _checked([_name(value) for value in values], where)
    if not isinstance(values, Mapping):
        return None
    _check_agreement(values, where)
    inner = values.get("pretrained_cfg")
    for source in (values, inner if isinstance(inner, Mapping) else {}):
        for key in ("label_names", "id2label", "label2id", "class_to_idx"):
            if isinstance(source.get(key), (list, Mapping)) and source[key]:
                return classes_told(source[key], f"{where}: {key}")
    if values and all(isinstance(value, int) for value in values.values()):
        values = {index: name for name, index in values.items()}
    if values and all(isinstance(key, str) and _WNID.fullmatch(key) for key in values):
        return _by_wnid({wnid: _name(name) for wnid, name in values.items()}, where)
    try:
        by_index = {int(index): _name(name) for index, name in values.items()}
    except (TypeError, ValueError):
        return None
    if sorted(by_index) != list(range(len(values))):
        raise UsageError(f"{where}: {len(values)} classes, but their indexes are not 0 to {len(values) - 1}")
    names = [by_index[index] for index in range(len(by_index))]
    return None if names == [f"LABEL_{index}" for index in range(len(names))] else _checked(names, where)


def _by_wnid(names: Mapping[str, str], where: str) -> list[str]:
    if list(names) != sorted(names):
        raise UsageError(
            f"{where}: WordNet ids out of order tell no order of the outputs; give a list, or {{index: name}}"
        )
    return [f"{wnid} {name}" for wnid, name in names.items()]


def _check_agreement(values: Mapping[str, Any], where: str) -> None:
    """Raises UsageError where Hugging Face's two tables of one configuration name other classes for an index."""
    try:
        there = {int(index): str(name) for index, name in values["id2label"].items()}
        back = {int(index): str(name) for name, index in values["label2id"].items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        return
    for index in sorted(there.keys() & back.keys()):
        if there[index] != back[index] and f"LABEL_{index}" not in (there[index], back[index]):
            raise UsageError(
                f"{where}: class {index} is {there[index]!r} in id2label and {back[index]!r} in label2id; correct it, or"
                " state the classes in a file of one a line"
            )


def classes_beside(folder: Path) -> list[str] | None:
    """The names in the config.json beside a model's weights; None where there is none or it does not name them."""
    path = folder / "config.json"
    try:
        return classes_told(json_value(path.read_text(encoding="utf-8-sig")), str(path))
    except UsageError as error:
        if "label" in str(error).removeprefix(str(path)):  # other tables of numbers are none of classes
            warn_once(log, f"{error}; until then its order of the classes is not used")
    except (OSError, ValueError):  # what is damaged is told where the architecture is read
        pass
    return None


def ordered(collection: Collection, classes: Classes | None, name: str) -> Collection:
    """``collection`` with labels that index ``classes``; told where the order was not stated and might be another.

    A stated class matches the one of the same name, or of its WordNet id ("n01440764 tench"). Raises UsageError for a
    class of the data set that was not stated. Stated ones without images are told.
    """
    if classes is None:
        if collection.sorted_by_name:
            _warn_of_numbers(collection.classes, name)
        return collection
    asked = kept_classes(classes)
    if asked == IMAGENET:
        stated = list(imagenet_wnids())
    else:
        stated = ORDERS[asked](collection.classes) if isinstance(asked, str) else list(asked or ())
    position = _positions(stated, collection)
    unknown = [class_name for class_name in collection.classes if class_name not in position]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UsageError(
            f"data set {name!r}: its class {unknown[0]!r}{more} is not one of the {len(stated)} stated, such as"
            f" {stated[0]!r}; name the classes as the data set does, or take its images out"
        )
    to_label = np.array([position[class_name] for class_name in collection.classes])
    absent = [class_name for index, class_name in enumerate(stated) if index not in set(to_label.tolist())]
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        warn_once(log, f"data set {name!r}: no images of {len(absent)} of the {len(stated)} stated classes: {shown}")

    def relabelled(examples: Examples | None) -> Examples | None:
        if examples is None or not len(examples.labels):
            return examples
        known = (examples.labels >= 0) & (examples.labels < len(to_label))  # others are refused by name later
        labels = np.where(known, to_label[np.where(known, examples.labels, 0)], len(stated))
        return Examples(examples.ids, labels, examples.images)

    test = relabelled(collection.test)
    assert test is not None
    train, validation = relabelled(collection.train), relabelled(collection.validation)
    return replace(collection, classes=stated, test=test, train=train, validation=validation)


def _positions(stated: Sequence[str], collection: Collection) -> dict[str, int]:
    """Positions of the classes that are among the stated ones, by any of their names; however their accents are
    encoded."""
    by_name: dict[str, int] = {}
    for number, class_name in enumerate(stated):
        for alias in _aliases(class_name):
            by_name.setdefault(unicodedata.normalize("NFC", alias), number)
    positions: dict[str, int] = {}
    for class_name, folder in zip(collection.classes, collection.folders or collection.classes, strict=True):
        for name in (class_name, folder):
            if (normal := unicodedata.normalize("NFC", name)) in by_name:
                positions.setdefault(class_name, by_name[normal])
    return positions


def _warn_of_numbers(names: Sequence[str], name: str) -> None:
    natural = ORDERS["natural"](names)
    different = [index for index, pair in enumerate(zip(names, natural, strict=True)) if pair[0] != pair[1]]
    if different:
        at = different[0]
        warn_once(
            log,
            f"data set {name!r}: its class folders are taken in text order, as torchvision does: class {at} is"
            f" {names[at]!r}; if the model has them in natural order, as timm does, class {at} is {natural[at]!r}."
            ' State it: --classes natural, or text, or a file (in a spec: [data] classes = "natural")',
        )


def _aliases(stated: str) -> tuple[str, ...]:
    return (stated, *stated.split(maxsplit=1)) if _WNID.match(stated) else (stated,)


def _name(value: Any) -> str:
    """A class's name; of {index: [wnid, name]} both, in one."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _checked(names: list[str], where: str) -> list[str]:
    if not names:
        raise UsageError(f"{where}: names no classes; give one a line, in the order of the model's outputs")
    if not any(map(_WNID.match, names)) and (of_imagenet := with_wnids(names)):
        return of_imagenet
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{where}: class {twice!r} is told twice; each of the model's outputs is one class")
    return names
