"""``testbed import``: trained weights of another library become a run folder."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
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

    from testbed.data import Dataset
    from testbed.models.config import ViTConfig
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
    from testbed.models.importers import assumed, import_weights, weights_file
    from testbed.models.runs import MODEL, write_model_run

    stated = _stated(settings, heads, pooling, norm_eps)
    folder = weights_file(file).path.parent
    dataset, source, how, order = _data(data, root, preprocess, classes, seed, folder)
    fit = {} if dataset is None else {"classes": len(dataset.classes), "channels": dataset.channels}
    _make_torchvision_importable(folder, check)
    imported = import_weights(file, layout, data_set=fit, **stated)
    rows = [*imported.facts, *_preprocess_rows(dataset, how, folder, imported.config), *order]
    checked = _checked(imported) if check else None
    parameters = sum(p.numel() for p in imported.model.parameters())
    facts: dict[str, JsonValue] = {
        "layout": imported.layout,
        "parameters": parameters,
        "assumed": list(assumed(rows)),
        "told": [row.to_json() for row in rows],
        "check": checked.to_json() if checked else None,
    }
    config = imported.config.to_json()
    made_from: dict[str, JsonValue] = {"file_sha256": imported.sha256, "layout": imported.layout, "config": config}
    made_from |= {
        row.key: row.value for row in imported.facts if row.key in ("weights", "head") and row.source == "stated"
    }
    name = Path(os.path.abspath(file)).name  # of "." too; a link keeps its own name
    write_model_run(run, imported.model, stage="import", name=name, made_from=made_from, data=source, facts=facts)
    report = {"run": run, "model": run / MODEL, **facts, "config": config, "data": source and asdict(source)}
    emit(report, as_json, lambda: _import_text(file, run, imported, rows, checked, source))


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


def _data(
    name: str | None, root: Path | None, preprocess: str | None, classes: str | None, seed: int, folder: Path
) -> tuple[Dataset | None, DataSource | None, str, list[Told]]:
    """The data set, its record, where its preprocessing is from, and a row on its classes' order.

    ``folder``: the weights', whose files may say both.
    """
    from testbed.cli.commands.model.import_classes import with_classes
    from testbed.models.importers import preprocessing_described

    if name is None:
        if root or preprocess or classes:
            raise UsageError("--root, --preprocess and --classes belong to a data set; name it with --data NAME")
        return None, None, "", []
    from testbed.data.preprocess.stated import kept, preprocess_from
    from testbed.data.registry import load
    from testbed.models.runs import DataSource

    how = "stated" if preprocess else "usual"
    chosen: Any = preprocess
    if preprocess is None and (file := preprocessing_described(folder)):
        how, chosen = "config.json", preprocess_from(file)
    loaded = partial(load, name, root=root, preprocess=chosen, seed=seed)
    dataset, order, row = with_classes(lambda stated: loaded(classes=stated), classes, folder)
    return dataset, DataSource(name, None if root is None else str(root), kept(chosen), seed, order), how, [row]


def _preprocess_rows(dataset: Dataset | None, how: Any, folder: Path, config: ViTConfig) -> list[Told]:
    """How images become the model's input. Raises UsageError where they would have another size than it takes."""
    from testbed.data.preprocess.stated import preprocess_from
    from testbed.models.importers import Told, preprocessing_described

    file = preprocessing_described(folder)
    if dataset is None:
        if file is None:
            return []
        try:
            description = preprocess_from(file).one_line(config.image)
        except UsageError as error:  # in the way only of data that is prepared so
            return [Told("preprocess", "not read", "config.json", str(error))]
        return [
            Told("preprocess", description, "config.json", f"{file.name}; kept when a data set is named: --data NAME")
        ]
    dataset.preprocess.check_size(config.image)
    height, width = dataset.test.pixels(0).shape[:2]
    size = f"{height} x {width} -> {config.image} x {config.image}"
    notes = {"usual": "the data set's own; if the model was trained with another, state --preprocess"}
    notes |= {"config.json": file.name} if file else {}
    return [
        Told("preprocess", dataset.preprocess.one_line(config.image), how, notes.get(how, "")),
        Told("resize", size, "data set", "the first image"),
    ]


def _make_torchvision_importable(folder: Path, check: bool) -> None:
    """Makes torchvision importable: timm and transformers import it, and cannot beside PyTorch of another build;
    ``_torchvision`` says why."""
    if check or (folder / "config.json").is_file():
        import testbed.data._torchvision  # noqa: F401


def _checked(imported: ImportedModel) -> LibraryCheck:
    """Raises GateFailed where the logits differ."""
    from testbed.models.importers import check_against_library

    check: LibraryCheck = check_against_library(imported)
    check.raise_if_failed()
    return check


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
