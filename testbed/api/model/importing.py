"""Trained weights of another library as a run folder, from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from testbed.api.model.folder import Model
from testbed.api.model.results import ModelResult
from testbed.core.errors import UsageError
from testbed.core.words import html

if TYPE_CHECKING:
    from pydantic import JsonValue

    from testbed.data import Dataset
    from testbed.models.config import ViTConfig
    from testbed.models.importers import ImportedModel, LibraryCheck, Told
    from testbed.models.runs import DataSource

File = str | os.PathLike[str]


class ModelImport(ModelResult):
    """What weights were taken to be."""

    @property
    def model(self) -> Model:
        """The model in its run folder."""
        return Model(self.to_json()["run"])

    @property
    def facts(self) -> pd.DataFrame:
        """One row per fact about the model: key, value, where it is from ("file", "stated", "usual", ...), and a note."""
        return pd.DataFrame(self.to_json()["told"])

    def _repr_html_(self) -> str:
        values = self.to_json()
        rows = [(row["key"], row["value"], row["from"], row["note"]) for row in values["told"]]
        return html.heading(f"{values['layout']}, {values['parameters']:,} parameters") + html.table(
            ("key", "value", "from", "note"), rows
        )


def import_model(
    file: File,
    to: File,
    *,
    layout: Literal["vit-pytorch", "vit-pytorch-simple", "timm", "torchvision", "huggingface"] | None = None,
    settings: Mapping[str, Any] | None = None,
    check: bool = False,
    data: str | None = None,
    root: File | None = None,
    preprocess: str | None = None,
    classes: str | None = None,
    seed: int = 0,
) -> ModelImport:
    """Read trained weights of another library into a run folder. Nothing in the file is executed.

    Args:
        file: The weights: .pth, .safetensors, or a folder of `save_pretrained`.
        to: The run folder.
        layout: Whose names the weights have. Default: recognised.
        settings: What weights do not tell: activation, eps, heads, norm_order, pooling, weights, head, ...
        check: Whether logits are compared with the library's own model, where it is installed.
        data: The data set that the model is for.
        root: The data folder.
        preprocess: How images become the model's input. Default: as a config.json says, or as is usual for the data set.
        classes: The order of the model's classes. Default: as a config.json says, or the data set's.
        seed: Decides the data set's splits.

    Returns:
        What the weights were taken to be, fact by fact, and the model.

    Raises:
        UsageError: For a missing, extra or misshapen key, and for data that does not fit the model.
        GateFailed: Where `check` finds other logits.

    Example:
        ```py
        imported = testbed.import_model("vit.pth", "runs/vit", settings={"heads": 6}, data="cifar10")
        print(imported.facts)
        ```
    """
    from testbed.models.importers import settings as read

    stated = read([f"{key}={value}" for key, value in (settings or {}).items()])
    folder = None if root is None else Path(root)
    made = import_run(Path(file), Path(to), layout, dict(stated), check, data, folder, preprocess, classes, seed)
    return ModelImport(made.report)


@dataclass(frozen=True, eq=False)
class ImportedRun:
    """An import. report: as `--json` prints it; rows: a fact each."""

    report: dict[str, Any]
    imported: ImportedModel
    rows: list[Told]
    checked: LibraryCheck | None
    source: DataSource | None


def import_run(
    file: Path,
    run: Path,
    layout: str | None,
    stated: Mapping[str, Any],
    check: bool,
    data: str | None,
    root: Path | None,
    preprocess: str | None,
    classes: str | None,
    seed: int,
) -> ImportedRun:
    """Import weights into the run folder ``run``; for the arguments see `import_model`."""
    from testbed.models.importers import assumed, import_weights, weights_file
    from testbed.models.runs import MODEL, write_model_run

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
    return ImportedRun(report, imported, rows, checked, source)


def _data(
    name: str | None, root: Path | None, preprocess: str | None, classes: str | None, seed: int, folder: Path
) -> tuple[Dataset | None, DataSource | None, str, list[Told]]:
    """The data set, its record, where its preprocessing is from, and a row on its classes' order.

    ``folder``: the weights', whose files may say both.
    """
    from testbed.api.model.import_classes import with_classes
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
    `testbed.data.torchvision_import` says why."""
    if check or (folder / "config.json").is_file():
        import testbed.data.torchvision_import  # noqa: F401


def _checked(imported: ImportedModel) -> LibraryCheck:
    """Raises GateFailed where the logits differ."""
    from testbed.models.importers import check_against_library

    check: LibraryCheck = check_against_library(imported)
    check.raise_if_failed()
    return check
