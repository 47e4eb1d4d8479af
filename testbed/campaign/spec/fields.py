"""What all tables of a spec are made of: closed, frozen records, common kinds of number, and how they refuse.

Every number has both bounds. A lower one explains itself; an upper one says what it is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class AtMost:
    """An upper bound with its reason, which the message tells. Of every number of a tuple; other values pass."""

    most: float
    why: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _bounded(handler(schema), self.most)

    def checked(self, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number > self.most:
                raise ValueError(f"at most {_format_number(self.most)}: {self.why}; not {_format_number(number)}")
        return value


def _bounded(schema: JsonSchemaValue, most: float) -> JsonSchemaValue:
    """A JSON schema with the bound at each number in it."""
    if schema.get("type") in ("integer", "number"):
        return schema | {"maximum": min(most, schema.get("maximum", most))}
    bounded = dict(schema)
    if "items" in schema:
        bounded["items"] = _bounded(schema["items"], most)
    if "anyOf" in schema:
        bounded["anyOf"] = [_bounded(option, most) for option in schema["anyOf"]]
    return bounded


def _format_number(number: float) -> str:
    if isinstance(number, float):
        return f"{number:g}"
    return f"{number:,}" if number < 1 << 64 else f"one of {number.bit_length()} bits"


WholeNumber = Annotated[int, Field(ge=1)]
Count = Annotated[WholeNumber, AtMost((1 << 31) - 1, "it is counted in 32 bits")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AtMost(1e38, "float32 holds no larger number")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AtMost(1e38, "float32 holds no larger number")]
ConfidenceLevel = Annotated[float, Field(ge=0.01, le=1 - 1e-9, allow_inf_nan=False)]
"""Of intervals; beyond these bounds, quantiles lose their digits."""


if TYPE_CHECKING:
    _BriefModel = BaseModel
else:

    class _BriefType(type(BaseModel)):
        """`help` and tab completion show what a table has, not what pydantic adds to every class."""

        def __dir__(cls) -> list[str]:
            hidden = {*dir(BaseModel)} - {*dir(object)}
            return [name for name in super().__dir__() if name not in hidden and not name.startswith("__pydantic")]

    class _BriefModel(BaseModel, metaclass=_BriefType):
        """A pydantic model whose help is brief."""


class Strict(_BriefModel):
    """A table of the spec. The description of each key is printed in the reference and stands in the JSON schema."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Complaint(NamedTuple):
    """One thing that is wrong. key: of what is wrong, from the table that complains: "bits", "atol[1]"; "" for the
    table itself."""

    key: str
    message: str


class Refused(ValueError):
    """Everything that a validator has to complain of, at once."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("; ".join(": ".join(filter(None, complaint)) for complaint in self.complaints))


def refuse(complaints: Iterable[Complaint]) -> None:
    """Raises Refused if there are any."""
    if reasons := tuple(complaints):
        raise Refused(reasons)
