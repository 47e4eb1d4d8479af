"""``testbed cache``: what is kept to save time, how large it is, and how to be rid of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.groups import CommandGroup
from testbed.cli.options.numbers import Number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from testbed.core.folder.cache import Usage

_WHAT = {
    "goldens": "outputs of models without faults, shared by campaigns and `testbed golden`",
    "prepared": "exports, twins, tuned batches and passed gates of campaigns",
    "tensorrt": "engines that TensorRT has built",
    "models": "models that campaigns have trained",
}
_DAY_SECONDS = 86_400.0
_folder_option = click.option(
    "--cache",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder, instead of the usual one: what `campaign run --cache DIR` was given.",
)


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    epilog=example("testbed cache", "testbed cache --json", "testbed cache clear --only goldens"),
)
@_folder_option
@json_option
@click.pass_context
def cache(context: click.Context, folder: Path | None, as_json: bool) -> None:
    """Say what is kept to save time: goldens, what campaigns prepared, engines and models that were made before.

    Losing it loses time only: no run folder needs it. The folder is $TESTBED_CACHE, else $XDG_CACHE_HOME/testbed, else
    ~/.cache/testbed. Beyond $TESTBED_CACHE_LIMIT GiB (4) what was used longest ago is forgotten, goldens first.
    """
    if context.invoked_subcommand is not None:
        return
    from testbed.core.folder.cache import CacheUsage, cache_folder, limit_bytes, usage
    from testbed.core.process.resources import format_bytes

    held = CacheUsage(folder or cache_folder(), limit_bytes(), usage(folder))
    emit(held, as_json, lambda: [f"{held.folder}, at most {format_bytes(held.limit_bytes)}", *_lines(held.kinds)])


@cache.command(
    epilog=example(
        "testbed cache clear",
        "testbed cache clear --only goldens",
        "testbed cache clear --cache shared --older-than 30",
    )
)
@click.option("--only", type=click.Choice(list(_WHAT)), help="Only files of this kind; by default all.")
@click.option("--older-than", type=Number(0), metavar="DAYS", help="Only what was not used for so many days.")
@_folder_option
@json_option
def clear(only: str | None, older_than: float | None, folder: Path | None, as_json: bool) -> None:
    """Remove what is kept; data sets that lie in the cache folder stay."""
    from testbed.core.folder import cache as kept

    kinds = kept.KINDS if only is None else (only,)
    removed = kept.clear(kinds, folder) if older_than is None else kept.clear(kinds, folder, older_than * _DAY_SECONDS)
    gone = kept.CacheCleared(folder or kept.cache_folder(), removed)
    emit(gone, as_json, lambda: [f"removed from {gone.folder}", *_lines(gone.removed)])


def _lines(usages: Sequence[Usage]) -> list[str]:
    from testbed.core.process.resources import format_bytes

    return [
        f"{usage.kind:9}{usage.files:6,} files {format_bytes(usage.bytes):>11}  {_WHAT[usage.kind]}" for usage in usages
    ]
