"""The rows of a table one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row as a named tuple. A column's type is not known to a type checker, which would offer any that pandas has."""
    yield from frame.itertuples()
