"""A trained model in a run folder, and the record of which data it is for.

``testbed train`` and ``testbed import`` write such folders (kind "model"); a campaign's folder can be read as one too.
Data sets are named here, not loaded: ``testbed.golden.source`` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from pydantic import JsonValue

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.folder.forms import Form
from testbed.core.folder.places import with_sources
from testbed.core.folder.run_files import WEIGHTS
from testbed.core.folder.runfolder import RunFolder, current_argv
from testbed.core.protected import protected_file, protected_precisions
from testbed.models.vit import ViT
from testbed.models.weights import load_model, save_model

MODEL = WEIGHTS
KIND = "model"


class SourceOptions(TypedDict):
    root: str | None
    preprocess: str | dict[str, JsonValue] | None
    seed: int
    classes: tuple[str, ...] | str | None


@dataclass(frozen=True)
class DataSource:
    """What ``testbed.data.load`` is to be asked for; the model says the image size.

    Paths (``root``, and PATH of ``imagefolder:PATH``) are made absolute, so that the folder can be used from anywhere.
    ``preprocess``: a preset's name or the values that were stated (``testbed.data.preprocess.stated.kept``: of a file,
    its values, not its path); ``classes``: their order, where it was stated (``testbed.data.classes.order.kept_classes``).
    """

    name: str
    root: str | None = None
    preprocess: str | dict[str, JsonValue] | None = None
    seed: int = 0
    classes: tuple[str, ...] | str | None = None

    def __post_init__(self) -> None:
        kind, _, path = self.name.partition(":")
        if path:
            object.__setattr__(self, "name", f"{kind}:{_absolute(path)}")
        if self.root is not None:
            object.__setattr__(self, "root", _absolute(self.root))
        if isinstance(self.classes, list):  # from JSON
            object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def options(self) -> SourceOptions:
        """All but the name, as ``testbed.data.load`` takes it."""
        return {"root": self.root, "preprocess": self.preprocess, "seed": self.seed, "classes": self.classes}

    def to_json(self) -> dict[str, JsonValue]:
        """A record for manifests, in which folders of earlier versions name no classes."""
        return {key: value for key, value in asdict(self).items() if key != "classes" or value is not None}


@dataclass(frozen=True)
class ModelRun:
    """``stage`` is the one that wrote the model; ``data`` is None where none was named.

    Of a protected model the weights are the plain model's: what is deployed is a protected file of each precision.
    """

    folder: RunFolder
    stage: str
    data: DataSource | None

    @cached_property
    def model(self) -> ViT:
        """The model on the CPU, in eval mode. Raises StaleArtefact when the file is not the one that the stage
        wrote."""
        self.folder.verify(self.stage)
        return load_model(self.folder / MODEL)

    @property
    def model_hash(self) -> str:
        return self.folder.output_hash(self.stage, MODEL)

    @property
    def protected(self) -> tuple[str, ...]:
        """The precisions in which it was protected; none of a plain model."""
        return protected_precisions(self.folder.manifest["stages"][self.stage]["outputs"])

    def protected_path(self, target: str, precision: str) -> Path:
        """The file of a protected model that is deployed, whole as it was written.

        Raises UsageError for a part of the model or a precision that it was not protected in, StaleArtefact when the file
        is not the one that the stage wrote.
        """
        where = self.folder.path
        if target != "model":
            raise UsageError(
                f"{where} holds a protected model, whose checks are of the whole of it; take target model, or the folder of"
                f" the plain model for {target}"
            )
        if precision not in self.protected:
            raise UsageError(
                f"{where} was protected in {', '.join(self.protected)}, not in {precision}; protect the plain model in"
                f" {precision} too with `testbed protect`, or take one of these"
            )
        file = protected_file(precision)
        self.folder.verify(self.stage, [file])
        return self.folder / file


def claim_model_run(path: Path, name: str, made_from: Mapping[str, JsonValue], data: DataSource | None) -> RunFolder:
    """The folder for one model, new or begun; lock it, ``save()`` it, then write MODEL in a stage of its own.

    ``name`` is for people (a preset, a file name); ``made_from`` is JSON that tells this model from others: recipe and
    seed, or the hash of the imported file. Raises UsageError when the folder holds something else.
    """
    identity = {"made_from": dict(made_from), "data": None if data is None else data.to_json()}
    return RunFolder.claimed(path, KIND, name, identity, current_argv())


def write_model_run(
    path: Path,
    model: ViT,
    *,
    stage: str,
    name: str,
    made_from: Mapping[str, JsonValue],
    data: DataSource | None,
    facts: Form | Mapping[str, JsonValue] | None = None,
    protected: Mapping[str, bytes] | None = None,
) -> ModelRun:
    """A run folder with this finished model in it. The same call again changes nothing.

    ``stage`` is "import", "train", ...; ``facts`` are kept in the manifest; ``protected``: of a protected model, precision ->
    content of its file. For ``name``, ``made_from`` and the errors
    see ``claim_model_run``; StaleArtefact when the model file was edited since.
    """
    folder = claim_model_run(path, name, made_from, data)
    files = {protected_file(precision): content for precision, content in (protected or {}).items()}

    def build() -> Form | Mapping[str, JsonValue] | None:
        save_model(folder / MODEL, model)
        for file, content in files.items():
            write_bytes(folder / file, content)
        return facts

    with folder.locked():
        folder.save()
        folder.stage(stage, dict(made_from), [MODEL, *files], build)
    return ModelRun(folder, stage, data)


def onnx_file_of(folder: RunFolder) -> str | None:
    """The user's own ONNX file that a campaign's folder is about; None of any other run."""
    model = (folder.manifest.get("spec") or {}).get("model")
    return model.get("onnx") if isinstance(model, dict) else None


def open_model_run(path: Path) -> ModelRun:
    """The model in a run folder of any kind that holds one.

    Raises UsageError when the folder holds no run or no model, as that of a campaign on an ONNX file, StaleArtefact when its
    manifest is damaged.
    """
    folder = RunFolder.existing(path)
    manifest = folder.manifest
    stages = [name for name, stage in manifest.get("stages", {}).items() if MODEL in stage["outputs"]]
    if not stages and (file := onnx_file_of(folder)):
        raise UsageError(
            f"{path} is a campaign on an ONNX file, {file}, and there is no PyTorch model in it, which this needs: import the"
            " weights that the file was exported from (testbed import CHECKPOINT --run DIR) and name that folder; to hold"
            " another engine to the file's golden, run the campaign on that engine too (--set engine.backend=NAME) and"
            " compare both (testbed campaign compare)"
        )
    if not stages:
        raise UsageError(
            f"{path} holds no model yet; write one with `testbed train` or `testbed import`, or finish the campaign"
        )
    spec = manifest.get("spec") or {}
    try:
        return ModelRun(folder, stages[0], _data_source(str(manifest.get("kind")), with_sources(spec, path)))
    except (TypeError, KeyError) as error:
        raise StaleArtefact(f"{path}: its manifest does not name the data as expected ({error})") from error


def _data_source(kind: str, spec: Mapping[str, Any]) -> DataSource | None:
    if (spec.get("data") or {}).get("name") is None:
        return None
    named = {key: spec["data"].get(key) for key in ("name", "root", "preprocess", "classes")}
    return DataSource(**named, seed=spec["seed"] if kind == "campaign" else spec["data"]["seed"])


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
