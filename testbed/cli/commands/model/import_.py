"""``testbed import``: trained weights of another library become a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import emit, example, json_option, run_option
from testbed.cli.options.data import classes_option, preprocess_option
from testbed.cli.options.numbers import LARGEST_SEED, MOST, Number, Whole
from testbed.core.errors import UsageError

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import RenderableType

    from testbed.models.importers import ImportedModel, LibraryCheck, Told
    from testbed.models.runs import DataSource


@click.command(
    "import",
    epilog=example(
        "testbed import vit_cifar_d6.pth --run vit --data imagefolder:cifar10/test --preprocess cifar10",
        "testbed import a-folder-of-save_pretrained --run vit --check",
        "testbed import w.pth --run vit --set activation=gelu_tanh --set heads=6 --set weights=model_ema",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@run_option()
@click.option(
    "--as",
    "layout",
    metavar="LAYOUT",
    help="vit-pytorch (older or current), vit-pytorch-simple, timm, torchvision or huggingface; by default recognised.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="State what weights do not tell (repeatable): activation, eps, heads, norm_order, pooling, weights (which of"
    " several sets, such as an EMA), head (its module), channels, patch, image, ...",
)
@click.option("--heads", type=Whole(1, 1024), metavar="N", help="Short for --set heads=N: attention heads per block.")
@click.option(
    "--pooling",
    type=click.Choice(["cls", "mean", "mean_patches"]),
    help="What the head reads: CLS, the mean of all tokens, or the mean without CLS.",
)
@click.option("--norm-eps", type=Number(0, 1), metavar="X", help="Short for --set eps=X: LayerNorm's epsilon.")
@click.option("--check", is_flag=True, help="Compare logits with the library's own model, if it is installed here.")
@click.option("--data", metavar="NAME", help="The data set the model is for; see 'testbed data list'.")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The data folder.")
@preprocess_option("as a config.json beside the weights says, else as is usual for the data set")
@classes_option
@click.option(
    "--seed", type=Whole(-MOST, LARGEST_SEED), default=0, show_default=True, help="Decides the data set's splits."
)
@json_option
def import_(
    file: Path,
    run: Path,
    layout: str | None,
    settings: tuple[str, ...],
    heads: int | None,
    pooling: Any,
    norm_eps: float | None,
    check: bool,
    data: str | None,
    root: Path | None,
    preprocess: str | None,
    classes: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Read the trained weights in FILE (.pth, .safetensors, or a library's folder) into a run folder.

    Layout and architecture are read from the keys and shapes; a missing, extra or misshapen key is an error, and
    nothing in the file is executed. What shapes do not tell is stated (--set), read from the config.json of timm or
    Hugging Face beside the file, or taken as is usual for the library: the table says which. With --data, classes and
    channels must agree with the data set's.
    """
    from testbed.api.model.importing import import_run

    stated = _stated(settings, heads, pooling, norm_eps)
    made = import_run(file, run, layout, stated, check, data, root, preprocess, classes, seed)
    emit(made.report, as_json, lambda: _import_text(file, run, made.imported, made.rows, made.checked, made.source))


def _stated(settings: tuple[str, ...], heads: int | None, pooling: Any, norm_eps: float | None) -> dict[str, Any]:
    """What was stated, whichever way; UsageError where two ways disagree."""
    from testbed.models.importers import settings as read

    stated: dict[str, Any] = dict(read(settings))
    for key, value in (("heads", heads), ("pooling", pooling), ("eps", norm_eps)):
        if (
            value is not None
            and key in stated
            and stated[key] not in (str(value), f"{value:g}" if key == "eps" else "")
        ):
            raise UsageError(f"{key} was stated twice: {stated[key]} (--set) and {value}")
        if value is not None:
            stated[key] = value
    return stated


def _import_text(
    file: Path,
    run: Path,
    imported: ImportedModel,
    rows: list[Told],
    checked: LibraryCheck | None,
    source: DataSource | None,
) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    table = FittedTable(title=f"{file.name}: what it was taken to be")
    for name in ("key", "value", "from", "note"):
        table.add_column(name, no_wrap=name in ("key", "from"))
    for row in rows:
        style = "yellow" if row.source == "usual" else None
        table.add_row(row.key, _value(row.value), row.source, row.note, style=style)
    parameters = sum(p.numel() for p in imported.model.parameters())
    lines: list[RenderableType] = [f"{file.name}: {imported.layout}, {parameters:,} parameters", table]
    usual = [row.key for row in rows if row.source == "usual"]
    if usual:
        lines.append(
            f"usual: neither the file nor anybody says so ({', '.join(usual)}); state others with --set KEY=VALUE"
        )
    if checked:
        same = checked.same_assumptions
        lines.append(
            f"check: {checked.images} random images, largest difference from {checked.library}"
            f" {checked.version}'s own model {checked.max_abs_difference:.2g} (logits up to"
            f" {checked.max_abs_logit:.3g}, bound {checked.bound:.2g})"
            + (f"; taken as usual on both sides, so not checked: {', '.join(same)}" if same else "")
        )
    lines.append(f"data: {source.name if source else 'none named'}")
    lines.append(f"written to {run}" + (f"; next: testbed golden {run}" if source else ""))
    return stacked(lines)


def _value(value: JsonValue) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
