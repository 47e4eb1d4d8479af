"""Does a set of named tensors fit a model? Missing, extra and misshapen names are listed, never passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KeyShapes = Mapping[str, tuple[int, ...]]
_LISTED = 6


def misfits(wanted: KeyShapes, given: KeyShapes) -> str | None:
    """One line that lists the names missing from, extra in or misshapen in ``given``; None when everything fits."""
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    misshapen = [
        f"{name} {_shape(given[name])} instead of {_shape(shape)}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    parts = [
        f"{what} {len(names)}: {listed(names)}"
        for what, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    return "; ".join(parts) or None


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
