"""An object whose pickle makes a folder when it is read: what no reader of files may do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Bomb:
    """Makes the folder ``path`` wherever its pickle is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
