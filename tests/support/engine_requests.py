"""Requests to engines, made from a model alone."""

from __future__ import annotations

from typing import Any

from testbed.core.folder.files import sha256_bytes
from testbed.engines.runner import EngineRequest


def asked(model: bytes, **settings: Any) -> EngineRequest:
    """An engine for this model, with these settings."""
    return EngineRequest(model, sha256_bytes(model), "deployment", **settings)
