"""What happens to a Vision Transformer, as deployed, when a bit flips.

>>> import testbed
>>> with testbed.load_run("runs/digits") as run:                                            # doctest: +SKIP
...     hit = run.inject("block.1.attn.softmax", index=5, bit=30, image=run.image_ids[0])
...     print(hit.golden_value, "->", hit.faulty_value, hit.outcome)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from testbed.core.process.telemetry import switch_off

if TYPE_CHECKING:
    __version__: str

    from testbed.campaign.run import Injection, Run

__all__ = ["Injection", "Run", "load_run"]

switch_off()


def load_run(path: str | os.PathLike[str]) -> Run:
    """The campaign in a run folder. Raises UsageError when there is none, StaleArtefact when its files were changed."""
    from testbed.campaign.run import Run

    return Run(os.fspath(path))


def __getattr__(name: str) -> object:  # heavy classes load on first use
    if name in ("Injection", "Run"):
        from testbed.campaign import run as view

        return getattr(view, name)
    if name == "__version__":  # of the installed package; asked for only when wanted, as reading it takes milliseconds
        from importlib.metadata import version

        return version("testbed")
    raise AttributeError(f"module 'testbed' has no attribute {name!r}")
