"""Which output of an imported model is which class: as stated, as a file beside the weights says, or the data set's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.core.errors import UsageError

if TYPE_CHECKING:
    from testbed.data import Dataset
    from testbed.models.importers import Told

_SHOWN = 3


def with_classes(
    load: Callable[[str | tuple[str, ...] | None], Dataset], asked: str | None, folder: Path
) -> tuple[Dataset, tuple[str, ...] | None, Told]:
    """The data set in the model's order of classes, that order where it is to be kept, and a row that tells it.

    ``load`` takes the order; ``folder`` is the weights', whose config.json may name the classes (``id2label``,
    ``label_names``): followed where it knows every class of the data set, told where it does not.
    """
    from testbed.data.classes.order import classes_beside, kept_classes
    from testbed.models.importers import Told

    if asked is not None:
        dataset = load(kept_classes(asked))
        return dataset, tuple(dataset.classes), Told("class order", _shown(dataset.classes), "stated")
    beside = classes_beside(folder)
    if beside is not None:
        try:
            dataset = load(tuple(beside))
        except UsageError:
            dataset = load(None)
            note = f"config.json has other names ({_shown(beside)}): if its order is another, state it (--classes)"
            return dataset, None, Told("class order", _shown(dataset.classes), "data set", note)
        return dataset, tuple(dataset.classes), Told("class order", _shown(dataset.classes), "config.json")
    dataset = load(None)
    note = "the order of the data set; if the model has another, state it (--classes)"
    return dataset, None, Told("class order", _shown(dataset.classes), "data set", note)


def _shown(classes: list[str] | tuple[str, ...]) -> str:
    return ", ".join(classes[:_SHOWN]) + (f", ... ({len(classes)})" if len(classes) > _SHOWN else "")
