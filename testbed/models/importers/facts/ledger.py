"""What an import takes a model to be, a row for each fact, and where each is from: nothing is assumed in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError

FactSource = Literal["file", "config.json", "stated", "data set", "usual"]
INSTEAD = (
    "export it to ONNX with its own library: torch.onnx.export(model.eval(), (images,), 'FILE.onnx', dynamo=True,"
    " dynamic_shapes=({0: 'batch'},)), then: testbed instrument FILE.onnx, or in a spec [model] onnx = FILE.onnx"
)
_NOUNS = {
    "classes": "the weights are for {have} classes, not {said}: another data set's weights? Where the data set has only some"
    " of the classes, state them all: --classes FILE",
    "channels": "the weights are for {have} channels, not {said}",
    "image": "the weights are for images of {have} pixels a side, not {said}; resize the images",
}


@dataclass(frozen=True)
class Told:
    """One fact. ``key`` is the one that ``--set`` takes, where it can be stated; ``value`` is JSON.

    ``source``: "file" is the weights' names and shapes; "usual" is neither said nor derived: the library's own default.
    """

    key: str
    value: JsonValue
    source: FactSource
    note: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        return {"key": self.key, "value": self.value, "from": self.source, "note": self.note}


class Ledger:
    """Settles each fact once, from what was said and what the file tells, and keeps the row.

    ``said``: source -> key -> value, the first source that names a key wins; ``config`` is how errors call the
    config.json. Raises UsageError where what the user or the data set says does not fit the weights, TestbedError where
    config.json does not.
    """

    def __init__(self, said: Mapping[FactSource, Mapping[str, Any]], config: str = "config.json") -> None:
        self.said, self.config = said, config
        self.rows: list[Told] = []

    def add_from_file(self, key: str, value: Any, note: str = "") -> None:
        """The file tells ``value``; whatever else is said must agree."""
        for source, values in self.said.items():
            if key in values and values[key] != value:
                raise self._contradiction(source, key, values[key], value)
        self.rows.append(Told(key, value, "file", note))

    def chosen(self, key: str, usual: Any, ask: str, note: str = "") -> Any:
        """What was said of ``key``, else ``usual``; UsageError ``ask`` where there is neither."""
        answers = [(source, values[key]) for source, values in self.said.items() if key in values]
        if not answers:
            if usual is None:
                raise UsageError(ask)
            self.rows.append(Told(key, usual, "usual", note))
            return usual
        (source, value), *others = answers
        for other, differs in others:
            if differs == value:
                continue
            if other == "data set":
                raise UsageError(f"{key} = {value} was stated, the data set has {differs}; state one of them")
            note = f"{other} says {differs}"
        self.rows.append(Told(key, value, source, note if len(answers) > 1 else ""))
        return value

    def implied(self, key: str, value: Any, note: str) -> None:
        """``value`` follows from the file and an assumption (``note``): what is said must agree; if nothing is, "usual"."""
        says = [source for source, values in self.said.items() if key in values]
        for source in says:
            if self.said[source][key] != value:
                raise self._contradiction(source, key, self.said[source][key], value)
        self.rows.append(Told(key, value, says[0] if says else "usual", "" if says else note))

    def value(self, key: str) -> Any:
        """What was said of ``key``, by the first source that speaks of it; None where none does."""
        return next((values[key] for values in self.said.values() if key in values), None)

    def _contradiction(self, source: FactSource, key: str, said: Any, have: Any) -> TestbedError:
        if source == "config.json":
            return TestbedError(
                f"{self.config} describes {key} {said}, the weights beside it have {have}; it is another model's: remove it"
            )
        if key in _NOUNS:
            return UsageError(_NOUNS[key].format(have=have, said=said))
        return UsageError(f"{key} = {said} was stated, and the weights have {have}")


def assumed(rows: Iterable[Told]) -> tuple[str, ...]:
    """A line for each "usual" row."""
    return tuple(
        f"{row.key} {row.value}{f' ({row.note})' if row.note else ''}" for row in rows if row.source == "usual"
    )
