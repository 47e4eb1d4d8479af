"""A twin and its site table as files, from an ONNX file of whatever origin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.site import SiteTable
from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import deployment_id


def make_twin(file: Path, folder: Path, patterns: Sequence[str], mechanism: str) -> dict[str, Any]:
    """Writes NAME.twin.onnx and NAME.sites.json into ``folder``, and NAME.plain.onnx where the file had to be changed.

    patterns: see ``Catalogue.select``. Returns a JSON-ready record: the files, the sites, what was changed and what is
    lacking. Raises UsageError, TestbedError and EngineError as ``adopt``, ``catalogue`` and ``instrument`` do.
    """
    adopted = adopt(file)
    catalogued = catalogue(adopted.plain)
    if not catalogued.recognised and patterns == ("*",):
        raise UsageError(f"{file}: no ViT's attention is recognised in it; --sites all takes every tensor there is")
    chosen = catalogued.select(patterns)
    if all(site.where == "weight" for site in chosen):
        raise UsageError(
            "the selection holds weights only; ports are for activations, weights are struck in the plain file"
        )
    table = SiteTable(file.stem, deployment_id(adopted.plain), mechanism, chosen)
    twin = instrument(adopted.plain, table)
    plain = file
    if adopted.changes:
        plain = folder / f"{file.stem}.plain.onnx"
        write_bytes(plain, adopted.plain)
    written = folder / f"{file.stem}.twin.onnx", folder / f"{file.stem}.sites.json"
    write_bytes(written[0], twin.SerializeToString(deterministic=True))
    table.save(written[1])
    recognised = {site.name for site in catalogued.recognised}
    return {
        "file": str(file),
        "plain": str(plain),
        "twin": str(written[0]),
        "table": str(written[1]),
        "deployment_id": table.deployment_id,
        "ports": mechanism,
        "changes": list(adopted.changes),
        "missing": [{"site": name, "why": why} for name, why in catalogued.missing.items()],
        "shared": [{"tensor": tensor, "uses": list(uses)} for tensor, uses in catalogued.shared.items()],
        "sites": [
            {
                "name": site.name,
                "where": site.where,
                "kind": site.kind,
                "block": site.block,
                "shape": list(site.shape),
                "format": site.format_name,
                "tensor": site.tensor,
                "transposed": site.transposed,
                "recognised": site.name in recognised,
            }
            for site in chosen
        ],
    }
