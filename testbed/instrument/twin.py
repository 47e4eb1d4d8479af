"""A twin and its site table as files, from an ONNX file of whatever origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.site import Site, SiteTable, Where
from testbed.instrument.adopt.file import adopt_lean
from testbed.instrument.lean.write import write_model
from testbed.instrument.ports.insertion import instrument_graph
from testbed.instrument.sites.catalogue import catalogue_of


@dataclass(frozen=True)
class MissingSite:
    """A site that a ViT would have and the file has no tensor for."""

    site: str
    why: str


@dataclass(frozen=True)
class SharedTensor:
    """A weight that is stored once and used under several names."""

    tensor: str
    uses: list[str]


@dataclass(frozen=True)
class TwinSite:
    """A site of the twin. recognised: by the graph's pattern; others keep their tensor's name."""

    name: str
    where: Where
    kind: str
    block: int | None
    shape: list[int]
    format: str
    tensor: str
    transposed: bool
    recognised: bool


@dataclass(frozen=True)
class TwinFiles:
    """The files of a twin, its sites, what was changed in the user's file and what it lacks. ports: their mechanism."""

    file: str
    plain: str
    twin: str
    table: str
    deployment_id: str
    ports: str
    changes: list[str]
    missing: list[MissingSite]
    shared: list[SharedTensor]
    sites: list[TwinSite]


def make_twin(
    file: Path,
    folder: Path,
    patterns: Sequence[str],
    mechanism: str,
    image_size: int | None = None,
    output: str | None = None,
) -> TwinFiles:
    """Writes NAME.twin.onnx and NAME.sites.json into ``folder``, and NAME.plain.onnx where the file had to be changed.

    patterns: see ``Catalogue.select``; image_size, output: see `adopt_lean`. Raises UsageError, TestbedError
    and EngineError as ``adopt``, ``catalogue`` and ``instrument`` do.
    """
    adopted = adopt_lean(file, output, image_size)
    catalogued = catalogue_of(adopted.proto)
    if not catalogued.recognised and patterns == ("*",):
        raise UsageError(f"{file}: no ViT's attention is recognised in it; --sites all takes every tensor there is")
    chosen = catalogued.select(patterns)
    if all(site.where == "weight" for site in chosen):
        raise UsageError(
            "the selection holds weights only; ports are for activations, weights are struck in the plain file"
        )
    plain, digest = file, sha256_file(file)
    if adopted.changes:
        plain = folder / f"{file.stem}.plain.onnx"
        digest = write_model(adopted.proto, plain)
    table = SiteTable(file.stem, digest[:16], mechanism, chosen)
    written = folder / f"{file.stem}.twin.onnx", folder / f"{file.stem}.sites.json"
    write_model(instrument_graph(adopted.proto, table), written[0])
    table.save(written[1])
    recognised = {site.name for site in catalogued.recognised}
    return TwinFiles(
        file=str(file),
        plain=str(plain),
        twin=str(written[0]),
        table=str(written[1]),
        deployment_id=table.deployment_id,
        ports=mechanism,
        changes=list(adopted.changes),
        missing=[MissingSite(name, why) for name, why in catalogued.missing.items()],
        shared=[SharedTensor(tensor, list(uses)) for tensor, uses in catalogued.shared.items()],
        sites=[_described(site, site.name in recognised) for site in chosen],
    )


def _described(site: Site, recognised: bool) -> TwinSite:
    return TwinSite(
        name=site.name,
        where=site.where,
        kind=site.kind,
        block=site.block,
        shape=list(site.shape),
        format=site.format_name,
        tensor=site.tensor,
        transposed=site.transposed,
        recognised=recognised,
    )
