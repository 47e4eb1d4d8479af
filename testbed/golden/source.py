"""The data set that a run folder's model is for."""

from __future__ import annotations

from testbed.core.errors import UsageError
from testbed.core.folder.manifest import CAMPAIGN
from testbed.core.folder.places import with_sources
from testbed.data import Dataset, load
from testbed.data.classes.order import ONLY_SOME
from testbed.models.runs import ModelRun


def dataset_of(run: ModelRun) -> Dataset:
    """Raises UsageError when the folder names none or one for other classes or channels; TestbedError for bad data."""
    path, source, config = run.folder.path, run.data, run.model.config
    if source is None and run.folder.kind == CAMPAIGN:
        model = with_sources(run.folder.manifest["spec"], path)["model"].get("run")
        raise UsageError(f"{path} is a campaign on a trained model; name that model's own folder: {model}")
    if source is None:
        raise UsageError(f"{path} names no data set; import the weights again with --data NAME")
    dataset = load(source.name, image=config.image, **source.options)
    for what, wanted, actual in (
        ("classes", config.classes, len(dataset.classes)),
        ("channels", config.channels, dataset.channels),
    ):
        if wanted != actual:
            raise UsageError(
                f"the model in {path} is for {wanted} {what}, data set {dataset.name!r} has {actual};"
                " import or train it with the data set it is for"
                + (f"; {ONLY_SOME}" if what == "classes" and wanted > actual else "")
            )
    return dataset
