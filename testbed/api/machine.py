"""This machine from Python: what is kept in the cache folder to save time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import pandas as pd

CacheKind = Literal["goldens", "tensorrt", "models"]


def list_cache() -> pd.DataFrame:
    """Say what the cache folder keeps to save time. Losing it loses time only.

    Returns:
        One row per kind ("goldens", "tensorrt", "models"): files and bytes. `attrs` has `folder` and `limit_bytes`.

    Raises:
        UsageError: Where $TESTBED_CACHE_LIMIT is no number.

    Example:
        ```py
        print(testbed.list_cache())
        ```
    """
    from testbed.core.folder.cache import cache_folder, limit_bytes, usage

    table = pd.DataFrame([asdict(kind) for kind in usage()])
    table.attrs |= {"folder": str(cache_folder()), "limit_bytes": limit_bytes()}
    return table


def clear_cache(kind: CacheKind | None = None) -> pd.DataFrame:
    """Remove what the cache folder keeps; data sets that lie in it stay.

    Args:
        kind: Only files of this kind. Default: all three.

    Returns:
        One row per kind: the files and bytes that are gone.

    Raises:
        TestbedError: Where a file cannot be removed.

    Example:
        ```py
        print(testbed.clear_cache("goldens"))
        ```
    """
    from testbed.core.folder import cache

    return pd.DataFrame([asdict(gone) for gone in cache.clear(cache.KINDS if kind is None else (kind,))])
