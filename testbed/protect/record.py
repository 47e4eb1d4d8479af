"""What is told of a protected model, and of what protection would add to one."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto
from pydantic import JsonValue

from testbed.core.folder.files import sha256_bytes
from testbed.protect.build import Protected
from testbed.protect.contract import Applied
from testbed.protect.ensure import Ensured
from testbed.protect.placement.placing import Placement


@dataclass(frozen=True)
class ProtectedFile:
    """One precision of a protected model. nodes: of the graph, before and after; file_bytes: likewise."""

    precision: str
    sha256: str
    nodes: tuple[int, int]
    file_bytes: tuple[int, int]
    applied: tuple[Applied, ...]
    ensured: Ensured

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready."""
        return {
            "precision": self.precision,
            "sha256": self.sha256,
            "nodes_before": self.nodes[0],
            "nodes": self.nodes[1],
            "bytes_before": self.file_bytes[0],
            "bytes": self.file_bytes[1],
            "passes": [done.to_json() for done in self.applied],
            "ensured": self.ensured.to_json(),
        }


@dataclass(frozen=True)
class ProtectedRun:
    """A protected model: where it is, what it was made from, and its files. placement: how its places were chosen, where they
    were."""

    run: str
    source: str
    files: tuple[ProtectedFile, ...]
    placement: Placement | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready: what `testbed protect --json` prints."""
        chosen = {} if self.placement is None else {"placement": self.placement.to_json()}
        return {"run": self.run, "from": self.source, "files": [file.to_json() for file in self.files], **chosen}


@dataclass(frozen=True)
class PlannedProtection:
    """What would be added to the model: per pass its places by kind, and what is left out."""

    source: str
    passes: dict[str, list[str]]
    left_out: dict[str, dict[str, str]]
    placement: Placement | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready."""
        chosen = {} if self.placement is None else {"placement": self.placement.to_json()}
        passes: dict[str, JsonValue] = {name: [*places] for name, places in self.passes.items()}
        left_out: dict[str, JsonValue] = {name: {**reasons} for name, reasons in self.left_out.items()}
        return {"source": self.source, "passes": passes, "left_out": left_out, **chosen}


def describe_file(
    plain: ModelProto, protected: Protected, ensured: Ensured, precision: str, content: bytes
) -> ProtectedFile:
    """What is recorded of a protected file."""
    return ProtectedFile(
        precision,
        sha256_bytes(content),
        (len(plain.graph.node), len(protected.proto.graph.node)),
        (plain.ByteSize(), len(content)),
        protected.applied,
        ensured,
    )
