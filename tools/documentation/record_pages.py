"""Reference pages of records: one table for each form, made from the descriptions of its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from documentation.markdown import anchored, code, prose, table
from testbed.ber.record import BitErrorRecord
from testbed.campaign.spec.tables import EngineSpec
from testbed.compare.engine_record import EngineComparison
from testbed.compare.precision_record import PrecisionComparison
from testbed.core.folder.forms import Form
from testbed.protect.paired.record import ProtectionComparison
from testbed.protect.tradeoff.record import ProtectionTradeoff
from testbed.sensitivity.campaign_lens.record import LensPlan, LensRecord
from testbed.sweep.record import SweepRecord

_TYPES: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
_SWEEP = (
    "`sweep.json` in the run folder is what `testbed sweep --json` prints, and `ToleranceSweep.content` in Python: a key"
    " there is a field here. Rates are weighted, and mix no two fault models. How to read it:"
    " [which tolerance](../tutorials/tolerance.md)."
)
_COMPARE = (
    "What `testbed campaign compare --json` prints, and `RunComparison.content` in Python: of two engines within one"
    " precision, and of two precisions. Infinities are null. How to read it: [Compare two"
    " campaigns](../how-to/compare.md)."
)
_PROOF = (
    "What `testbed protect compare --json` prints, `comparison.json` of its `--to` and of a campaign with a [protect] table"
    " (whose `testbed campaign run --json` has it under `comparison`), and `ProtectionProof.content` in Python:"
    " [Prove what protection bought](../how-to/prove-protection.md) says how to read it. Below that, what `testbed protect"
    " tradeoff --json` prints, `tradeoff.json` of its `--to`, and `WeighedProtection.content` in Python: [Weigh protection"
    " against what it costs](../how-to/weigh-protection.md)."
)
_LENS = (
    "`lens.json` is what `testbed fault lens --json` prints, and `CampaignView.content` in Python. How to read it:"
    " [what do faults do inside?](../tutorials/inside-a-fault.md#over-a-campaign)."
)
_BER = "What `testbed campaign ber --json` prints, and `BitErrorSweep.content` in Python."


def sweep_page() -> str:
    """The keys of ``sweep.json``."""
    return _page("Keys of a sweep", _SWEEP, [SweepRecord])


def compare_page() -> str:
    """The keys of a comparison."""
    return _page("Keys of a comparison", _COMPARE, [EngineComparison, PrecisionComparison])


def proof_page() -> str:
    """The keys of what protection bought, and of what it costs against that."""
    return _page("Keys of what protection bought", _PROOF, [ProtectionComparison, ProtectionTradeoff])


def bit_error_page() -> str:
    """The keys of a bit-error-rate sweep."""
    return _page("Keys of a bit-error-rate sweep", _BER, [BitErrorRecord])


def lens_page() -> str:
    """The keys of ``lens.json``."""
    return _page("Keys of a fault lens", _LENS, [LensRecord, LensPlan])


def forms_in(form: type[BaseModel]) -> Iterator[type[Form]]:
    """The forms that the fields of a form are made of, in their order."""
    for field in form.model_fields.values():
        yield from _forms(field.annotation)


def _forms(annotation: Any) -> Iterator[type[Form]]:
    if isinstance(annotation, type) and issubclass(annotation, Form):
        yield annotation
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _forms(part)


def _page(title: str, opening: str, roots: list[type[Form]]) -> str:
    forms: list[type[Form]] = list(roots)
    for form in forms:  # grows meanwhile
        forms += [inner for inner in dict.fromkeys(forms_in(form)) if inner not in forms]
    parts = [f"# {title}\n", f"{opening}\n"]
    for form in forms:
        rows = [
            [anchored(name, f"{form.__name__}.{name}"), _type(field.annotation), prose(field.description or "")]
            for name, field in form.model_fields.items()
        ]
        parts += [
            f"## {_words(form)} {{#{form.__name__}}}\n",
            prose(_docstring(form)) + "\n",
            table(["key", "type", "meaning"], rows),
        ]
    return "\n".join(parts)


def _words(form: type[Form]) -> str:
    """ "TierCurves" as "Tier curves"."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: f" {found[1].lower()}", form.__name__)


def _docstring(form: type[Form]) -> str:
    return " ".join((form.__doc__ or "").split())


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return ", ".join(code(str(value)) for value in parts)
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is list:
        return f"list of: {_type(parts[0])}"
    if origin is dict:
        return f"table of: {_type(parts[1])}"
    if annotation is EngineSpec:
        return "[table](spec.md)"
    if isinstance(annotation, type) and issubclass(annotation, Form):
        return f"[{_words(annotation)}](#{annotation.__name__})"
    return _TYPES.get(annotation, "anything")
