"""ONNX -> site table: which tensors of a plain ONNX file can be struck, under which names, with which shapes and formats."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.core.errors import TestbedError
from testbed.core.folder.files import sha256_bytes
from testbed.core.site import SiteTable
from testbed.instrument.ports.feed import GATED_REPLACE
from testbed.instrument.sites.catalogue import Catalogue, catalogue


def deployment_id(plain: bytes) -> str:
    """Names what is deployed: the plain ONNX file's content. Its twin carries the same id."""
    return sha256_bytes(plain)[:16]


def site_table(plain: bytes, target: str, mechanism: str = GATED_REPLACE, also: Sequence[str] = ()) -> SiteTable:
    """Every site with a human name, activations in execution order first, and how their ports will work.

    also: patterns of site names; one that matches no such site adds the tensors whose own names match it. Raises
    TestbedError for a file without recognisable sites, EngineError for a foreign one that no engine here runs.
    """
    return table_of(catalogue(plain), plain, target, mechanism, also)


def table_of(
    catalogue: Catalogue, plain: bytes, target: str, mechanism: str = GATED_REPLACE, also: Sequence[str] = ()
) -> SiteTable:
    """`site_table` of a file whose catalogue is there already."""
    if not catalogue.recognised:
        raise TestbedError(
            f"target {target!r}: the ONNX file names no sites, and no ViT's attention is recognised in it; `testbed"
            " instrument FILE.onnx --sites all` lists its tensors"
        )
    return SiteTable(target, deployment_id(plain), mechanism, catalogue.with_tensors(also))
