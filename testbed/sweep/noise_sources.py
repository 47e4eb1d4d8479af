"""Which fault-free engines a tolerance has to live with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import UsageError
from testbed.engines.backends import available, check_engine, precisions_of, require_engine

EngineFile = Literal["plain", "twin"]
PLAIN: EngineFile = "plain"
TWIN: EngineFile = "twin"
_WRITTEN = re.compile(r"^(?P<backend>[a-z][a-z0-9-]*)(:(?P<precision>[a-z0-9]+))?(@(?P<batch>[1-9][0-9]*))?$")
COMPILERS = ("ort-cpu", "openvino")  # that a machine without a GPU may have
_ANOTHER_BATCH = 16


@dataclass(frozen=True)
class Source:
    """A fault-free engine. file: the plain one, as deployed, or the instrumented twin with its ports idle."""

    backend: str
    precision: str
    batch: int
    file: EngineFile = PLAIN

    def __str__(self) -> str:
        twin = ", twin" if self.file == TWIN else ""
        return f"{self.backend} {self.precision}, batch {self.batch}{twin}"

    @property
    def key(self) -> str:
        """A key for file names."""
        return f"{self.backend}-{self.precision}-b{self.batch}-{self.file}"


def own_source(spec: CampaignSpec, batch: int) -> Source:
    """The campaign's engine as it would be deployed."""
    return Source(spec.engine.backend, spec.engine.precision, batch)


def default_sources(spec: CampaignSpec, batch: int) -> tuple[list[Source], list[str]]:
    """The campaign's engine, its twin, another batch size, the other compiler and another precision; and, in a line
    each, which of these this machine cannot run, and why."""
    own = own_source(spec, batch)
    other_precision = "fp16" if own.precision == "fp32" else "fp32"
    wanted = [
        own,
        Source(own.backend, own.precision, batch, TWIN),
        Source(own.backend, own.precision, 1 if batch > 1 else _ANOTHER_BATCH),
        *(Source(backend, own.precision, batch) for backend in COMPILERS if backend != own.backend),
    ]
    if spec.model.onnx is None or own.precision == "fp32":  # a file in another precision is all there is of its model
        wanted.append(Source(own.backend, other_precision, batch))
    available, missing = [], []
    for source in wanted:
        reason = _missing(source)
        if reason is None:
            available.append(source)
        else:
            missing.append(f"{source} was not measured: {reason}")
    return available, missing


def _missing(source: Source) -> str | None:
    if source.precision not in precisions_of(source.backend):
        return f"{source.backend} does not offer {source.precision}"
    usable, reason = available(source.backend)
    return None if usable else reason


def named_sources(names: Sequence[str], spec: CampaignSpec, batch: int) -> list[Source]:
    """Sources from BACKEND[:PRECISION][@BATCH], or "twin": the campaign's own. The campaign's plain engine always comes
    first.

    What is left out is as in the campaign. Raises UsageError for anything else, EngineError for an engine that cannot
    run here.
    """
    own = own_source(spec, batch)
    sources = [own]
    for name in names:
        if name == TWIN:
            sources.append(Source(own.backend, own.precision, own.batch, TWIN))
            continue
        parts = _WRITTEN.match(name)
        if parts is None:
            raise UsageError(
                f"noise {name!r}: write an engine as BACKEND[:PRECISION][@BATCH], such as openvino, ort-cpu:fp16 or"
                " ort-cpu@1, or twin"
            )
        source = Source(
            parts["backend"], parts["precision"] or own.precision, int(parts["batch"]) if parts["batch"] else batch
        )
        check_engine(source.backend, source.precision)
        require_engine(source.backend)
        sources.append(source)
    return list(dict.fromkeys(sources))
