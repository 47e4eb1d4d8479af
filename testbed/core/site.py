"""A site is a tensor of the graph under a stable human name; the site table lists those of one exported model."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_text
from testbed.core.folder.forms import Form, read_form
from testbed.core.formats import FORMATS, Format, format_named
from testbed.core.protected import PREFIX
from testbed.core.words.nearest import meant, nearest

Target = Literal["model", "attention"]
Where = Literal["activation", "weight"]
_BLOCK = re.compile(r"^block\.(\d+)\.")
_OUTER = re.compile(r"^(?:block|stream)\.\d+\.")
_BLOCK_OF_CHECK = re.compile(r"^.*?\.block\.(\d+)\.")
_LISTED = 16  # site names in an error message
_KINDS = {
    "patch_embed": "patch_embedding",
    "norm": "layernorm",
    "norm1": "layernorm",
    "norm2": "layernorm",
    "norm_in": "layernorm",
    "norm_out": "layernorm",
    "proj": "projection",
}

_NEAR = 4


@dataclass(frozen=True)
class Site:
    """``shape`` is canonical: one image's for an activation, the torch parameter's for a weight.

    ``tensor`` is its name in the ONNX graph, the site's own unless said; ``transposed`` says that a weight is stored
    there as its transpose; ``joined``, that an activation's leading axis there is the batch and the first axis of
    ``shape`` in one, as where windows are taken for images.
    """

    name: str
    where: Where
    shape: tuple[int, ...]
    format_name: str = "fp32"
    tensor: str = ""
    transposed: bool = False
    joined: bool = False

    def __post_init__(self) -> None:
        if not self.tensor:
            object.__setattr__(self, "tensor", self.name)

    @cached_property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def trailing(self) -> tuple[int, ...]:
        """The tensor's shape after its leading axis."""
        return self.shape[1:] if self.joined else self.shape

    @cached_property
    def block(self) -> int | None:
        match = _BLOCK_OF_CHECK.match(self.name) if self.name.startswith(PREFIX) else _BLOCK.match(self.name)
        return int(match[1]) if match else None

    @cached_property
    def format(self) -> Format:
        return format_named(self.format_name)

    @cached_property
    def kind(self) -> str:
        """What the tensor is, whichever block it is in: "softmax", "residual", "fc1.weight"."""
        return site_kind(self.name, self.where)

    def stored_index(self, index: int) -> int:
        """Flat index in the stored tensor of the canonical flat ``index``. Raises UsageError past the end."""
        if not 0 <= index < self.elements:
            raise UsageError(f"site {self.name} has elements 0 to {self.elements - 1}; there is no element {index}")
        if not self.transposed:
            return index
        rows, columns = self.shape
        row, column = divmod(index, columns)
        return column * rows + row


def site_kind(name: str, where: Where) -> str:
    if name.startswith(PREFIX):  # of a check: which pass it belongs to
        return PREFIX + name.removeprefix(PREFIX).split(".")[0]
    parts = _OUTER.sub("", name).split(".")
    if parts[-1] in ("scale", "zero_point"):  # of a quantised tensor
        of = name.rpartition(".")[0]
        return f"{site_kind(of, 'weight' if of.endswith(('weight', 'bias')) else 'activation')}.{parts[-1]}"
    if where == "activation":
        return _KINDS.get(parts[-1], parts[-1])
    if len(parts) == 1:
        return parts[0]
    role = "patch_embedding" if parts[0] == "patch_embed" and parts[-2] == "proj" else _KINDS.get(parts[-2], parts[-2])
    return f"{role}.{parts[-1]}"


def _like(pattern: str, sites: Sequence[Site]) -> str:
    """A site's name, or the pattern of its last part, that somebody may have meant."""
    names = [site.name for site in sites]
    return meant(pattern, [*names, *(f"*.{name.rpartition('.')[2]}" for name in names)]).rstrip("?")


class _SiteFile(Form):
    model_config = ConfigDict(extra="forbid")

    name: str
    where: Where
    shape: list[Annotated[int, Field(ge=0, lt=1 << 40)]]
    format_name: Literal[tuple(FORMATS)] = "fp32"  # type: ignore[valid-type]
    tensor: str = ""
    transposed: bool = False
    joined: bool = False


class _TableFile(Form):
    model_config = ConfigDict(extra="forbid")

    target: str
    deployment_id: str
    mechanism: str
    sites: list[_SiteFile]


@dataclass(frozen=True)
class SiteTable:
    """The sites of one exported model, and which file they are sites of (``deployment_id``: its plain ONNX's).

    ``left_out``: names of sites that no pattern selects; they are no part of the saved table.
    """

    target: str
    deployment_id: str
    mechanism: str
    sites: tuple[Site, ...]
    left_out: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @cached_property
    def _by_name(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    @cached_property
    def ports(self) -> dict[str, int]:
        """Activation site -> its port number in the twin."""
        return {site.name: number for number, site in enumerate(s for s in self.sites if s.where == "activation")}

    @cached_property
    def port_sizes(self) -> NDArray[np.int64]:
        """(ports,) elements of one image at each."""
        return np.array([site.elements for site in self.sites if site.where == "activation"], np.int64)

    @cached_property
    def port_formats(self) -> NDArray[np.str_]:
        """(ports,) name of each one's number format."""
        return np.array([site.format_name for site in self.sites if site.where == "activation"], np.str_)

    def __getitem__(self, name: str) -> Site:
        if name not in self._by_name:
            last = name.rpartition(".")[2]
            near = [s for s in self._by_name if name in s or s.rpartition(".")[2] == last][:_NEAR]
            near += [like for like in [nearest(name, self._by_name)] if like and not near]
            hint = (
                f"; near it: {', '.join(near)}" if near else f"; its {len(self.sites)} sites: {self.sites[0].name}, ..."
            )
            raise UsageError(f"target {self.target!r} has no site {name!r}{hint}")
        return self._by_name[name]

    def without(self, names: Iterable[str]) -> SiteTable:
        """The same table, of which these sites are not selected."""
        return replace(self, left_out=self.left_out | frozenset(names))

    def unmatched_exclusions(self, where: Where, patterns: Iterable[str]) -> list[str]:
        """Patterns led by "!" that match no site of this kind of place."""
        names = [s.name for s in self.sites if s.where == where]
        return [p for p in patterns if p.startswith("!") and not fnmatch.filter(names, p[1:])]

    def select(self, where: Where, patterns: Sequence[str]) -> list[Site]:
        """Sites of one kind of place whose names match any shell pattern, less those that match one led by "!", and less
        those of ``left_out``.

        Raises UsageError if a pattern not led by "!" matches none, or if nothing is left.
        """
        sites = [s for s in self.sites if s.where == where]
        chosen: set[str] = set()
        for pattern in patterns:
            hits = {s.name for s in sites if fnmatch.fnmatchcase(s.name, pattern.removeprefix("!"))}
            if not hits and not pattern.startswith("!"):
                more = f" and {len(sites) - _LISTED} more" if len(sites) > _LISTED else ""
                some = ", ".join(s.name for s in sites[:_LISTED])
                raise UsageError(
                    f"no {where} site of target {self.target!r} matches {pattern!r}{_like(pattern, sites)}; sites: {some}{more}"
                )
            chosen = chosen - hits if pattern.startswith("!") else chosen | hits
        if not chosen:
            raise UsageError(f"the site patterns leave no {where} of target {self.target!r}; put what is wanted first")
        if chosen <= self.left_out:
            raise UsageError(
                f"every {where} of target {self.target!r} that {', '.join(patterns)} names was left out, as it cannot be"
                f" struck here: {', '.join(sorted(chosen)[:_LISTED])}"
            )
        return [s for s in sites if s.name in chosen - self.left_out]

    def select_any(self, where: Where, selections: Iterable[Sequence[str]]) -> list[Site]:
        """Sites that any of several selections has, each once: see `select`."""
        chosen = {site.name for patterns in selections for site in self.select(where, patterns)}
        return [site for site in self.sites if site.where == where and site.name in chosen]

    def save(self, path: Path) -> None:
        values = asdict(self)
        del values["left_out"]
        for site in values["sites"]:
            if not site["joined"]:  # most are not
                del site["joined"]
        write_text(path, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> SiteTable:
        table_file = read_form(path, _TableFile, "a site table", "export the model again")
        sites = tuple(Site(**{**dict(site), "shape": tuple(site.shape)}) for site in table_file.sites)
        return cls(table_file.target, table_file.deployment_id, table_file.mechanism, sites)
