"""Downloads that leave a whole folder or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.core.errors import TestbedError
from testbed.core.folder.files import write_errors


def fetch_folder(target: Path, download: Callable[[str], object]) -> None:
    """``download(folder)`` must make ``folder/<name of target>``; it is moved to ``target`` once it is complete."""
    if target.exists():
        raise TestbedError(f"{target} is there but incomplete: move it away, then download again")
    with write_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = TemporaryDirectory(prefix=".download-", dir=target.parent)
    with temporary:
        try:
            download(temporary.name)
        except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's word for a wrong checksum
            raise TestbedError(
                f"download into {target} failed ({' '.join(str(error).split())}): check the network and try again,"
                f" or put the files there by hand"
            ) from error
        with write_errors(target):
            os.replace(Path(temporary.name) / target.name, target)
