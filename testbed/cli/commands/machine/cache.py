"""``testbed cache``: what is kept to save time, how large it is, and how to be rid of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.groups import CommandGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testbed.core.folder.cache import Usage

_WHAT = {
    "goldens": "outputs of models without faults, shared by campaigns and `testbed golden`",
    "tensorrt": "engines that TensorRT has built",
    "models": "models that campaigns have trained",
}


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    epilog=example("testbed cache", "testbed cache --json", "testbed cache clear --only goldens"),
)
@json_option
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Say what is kept to save time: goldens, engines and models that were made before.

    Losing it loses time only: no run folder needs it. The folder is $TESTBED_CACHE, else $XDG_CACHE_HOME/testbed, else
    ~/.cache/testbed. Beyond $TESTBED_CACHE_LIMIT GiB (4) what was used longest ago is forgotten, goldens first.
    """
    if context.invoked_subcommand is not None:
        return
    from testbed.core.folder.cache import CacheUsage, cache_folder, limit_bytes, usage
    from testbed.core.process.resources import format_bytes

    held = CacheUsage(cache_folder(), limit_bytes(), usage())
    emit(held, as_json, lambda: [f"{held.folder}, at most {format_bytes(held.limit_bytes)}", *_lines(held.kinds)])


@cache.command(epilog=example("testbed cache clear", "testbed cache clear --only goldens"))
@click.option("--only", type=click.Choice(list(_WHAT)), help="Only files of this kind; by default all three.")
@json_option
def clear(only: str | None, as_json: bool) -> None:
    """Remove what is kept; data sets that lie in the cache folder stay."""
    from testbed.core.folder import cache as kept

    gone = kept.CacheCleared(kept.cache_folder(), kept.clear(kept.KINDS if only is None else (only,)))
    emit(gone, as_json, lambda: [f"removed from {gone.folder}", *_lines(gone.removed)])


def _lines(usages: Sequence[Usage]) -> list[str]:
    from testbed.core.process.resources import format_bytes

    return [
        f"{usage.kind:9}{usage.files:6,} files {format_bytes(usage.bytes):>11}  {_WHAT[usage.kind]}" for usage in usages
    ]
