"""Protection from Python: a model rewritten so that faults are corrected or detected."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from testbed.api.records import StudyResult
from testbed.core.words import html

if TYPE_CHECKING:
    from testbed.protect.record import ProtectedRun
    from testbed.sensitivity.rank.ranking import RankedBy

Folder = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class ProtectResult(StudyResult):
    """A protected model: its files, what each pass put where, and what was checked.

    Attributes:
        content: The record with fields instead of keys: `protected.content.files[0].applied`.
    """

    content: ProtectedRun

    @property
    def checks(self) -> pd.DataFrame:
        """One row per precision and engine: images, same bits, largest change, accuracies, false alarms and their bound."""
        rows = []
        for file in self.content.files:
            for each in file.ensured.unchanged:
                row = {"precision": file.precision, "engine": each.engine, "n": each.n, "identical": each.identical}
                row |= {"largest": each.largest, "false_alarms": each.false_alarms, "bound": each.false_alarm_bound}
                rows.append(row | {"accuracy": each.accuracy[0], "accuracy_before": each.accuracy_before[0]})
        return pd.DataFrame(rows)

    @property
    def false_alarms(self) -> pd.DataFrame:
        """One row per precision, engine and tier: edges of the margins (NaN: images that the plain engine gets wrong), images,
        alarms without a fault, and their one-sided upper bounds. Empty where no pass raises alarms."""
        rows = [
            {"precision": file.precision, "engine": each.engine, **asdict(tier)}
            for file in self.content.files
            for each in file.ensured.unchanged
            for tier in each.alarms_by_tier
        ]
        return pd.DataFrame(rows)

    @property
    def places(self) -> pd.DataFrame:
        """One row per place that was weighed under a budget: pass, place, gain and cost with intervals, whether it was chosen,
        by the exact choice and by the greedy one. Empty without a budget."""
        weighed = () if self.content.placement is None else self.content.placement.places
        rows = [
            {"pass": each.step, "place": each.name, "gain": each.gain.share, "gain_low": each.gain.low}
            | {"gain_high": each.gain.high, "cost_percent": each.cost.percent, "cost_low": each.cost.low}
            | {"cost_high": each.cost.high, "chosen": each.chosen, "greedy": each.greedy}
            for each in weighed
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        rows = [
            (file.precision, ", ".join(f"{done.name}: {len(done.places)}" for done in file.applied))
            for file in self.content.files
        ]
        return html.heading(f"{self.content.source}, protected") + html.table(("precision", "places"), rows)


def protect_model(
    model: Folder,
    to: Folder,
    passes: Sequence[Literal["range", "duplicate", "checksum", "nonfinite"]],
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    margin: float = 1.3,
    nan: Literal["zero", "keep"] = "zero",
    vote: bool = False,
    factor: float = 4.0,
    activations: Literal["recompute", "range"] = "recompute",
    unsigned: bool = False,
    precisions: Sequence[str] = ("fp32",),
    engines: Sequence[str] = ("ort-cpu",),
    calibration_images: int = 256,
    calibration_data: str = "train",
    images: int = 1000,
    by: RankedBy | None = None,
    budget: float | None = None,
    cost: Literal["latency", "macs"] = "latency",
    campaign: Folder | None = None,
    cost_batch: int = 1,
    data: str | None = None,
    root: Folder | None = None,
    preprocess: str | None = None,
    classes: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> ProtectResult:
    """Rewrite a model's exported file so that faults are corrected or detected, and write it as a model like any other.

    Args:
        model: Run folder of the plain model, or an ONNX file of any library.
        to: New run folder; of a file, a new file.
        passes: "range" brings values back into the range that was seen; "checksum" holds sums of every product against
            what they must be; "duplicate" computes parts twice and compares; "nonfinite" flags NaN and infinity.
        where: Patterns of sites for a pass (parts, for "duplicate"). Default: each pass's own.
        margin: range: how much wider than what was seen; 1 or more.
        nan: range: what becomes of NaN.
        vote: duplicate: three copies, of which the majority goes on.
        factor: checksum: a threshold over the largest deviation that was seen without a fault.
        activations: checksum: activation functions are computed twice and compared, or only where their sums lie is checked.
        unsigned: checksum: int8 activations become uint8, so that ONNX Runtime keeps its fused products.
        precisions: Number formats of the files; a file of your own stays in the one that it computes in.
        engines: Engines that thresholds hold on, and that the files are checked on.
        calibration_images: Training images that bounds and thresholds are measured on.
        calibration_data: Another data set to measure on.
        images: Test images that the files are held against.
        by: Choose places under ``budget`` by the SDC-1 that a campaign "measured" there, or by a score of their block;
            "range" may then stand at every site. Default: every place that ``where`` names is taken.
        budget: What protection may cost, in per cent of the plain file's.
        cost: What the budget is of.
        campaign: A finished campaign of the model, for "measured". Default: the model's own folder.
        cost_batch: Images at a time when latency is measured.
        data: Of an ONNX file: the data set that its model is for, as a spec's `[data]` names it.
        root: Of an ONNX file: the data folder.
        preprocess: Of an ONNX file: how its images are prepared. Default: the data set's own.
        classes: Of an ONNX file: the order of its classes. Default: the data set's own.
        report: Called with a line of progress now and then.

    Returns:
        What was put where, and what was checked.

    Raises:
        UsageError: For what cannot be protected, or not so.
        GateFailed: For a file that does not keep what it promises. Nothing is written then.

    Example:
        ```py
        protected = testbed.protect_model("runs/digits", "runs/checked", ["checksum"])
        print(protected.checks)
        guarded = testbed.protect_model(
            "runs/digits", "runs/guarded", ["range"], by="measured", campaign="runs/flips", budget=5
        )
        print(guarded.places)
        testbed.protect_model("vit.onnx", "vit-checked.onnx", ["checksum"], data="cifar10", preprocess="imagenet")
        ```
    """
    from testbed.core.errors import UsageError
    from testbed.protect.foreign import file_data, protect_file
    from testbed.protect.named import passes_named
    from testbed.protect.placement.placing import PlacementRequest
    from testbed.protect.run import ProtectRequest, protect_run

    if (by is None) != (budget is None):
        raise UsageError('by and budget go together: by="measured", budget=5')
    placement = None
    if by is not None and budget is not None:
        placement = PlacementRequest(by, budget, cost, None if campaign is None else str(campaign), cost_batch)
    chosen = passes_named(
        passes,
        where or {},
        margin=margin,
        nan=nan,
        vote=vote,
        factor=factor,
        activations=activations,
        unsigned=unsigned,
        under_budget=placement is not None,
    )
    request = ProtectRequest(
        chosen, tuple(precisions), tuple(engines), calibration_images, calibration_data, images, placement
    )
    of_file = file_data(Path(model), data, None if root is None else str(root), preprocess, classes)
    if of_file is None:
        done = protect_run(Path(model), Path(to), request, report)
    else:
        done = protect_file(Path(model), Path(to), request, of_file, report)
    return ProtectResult(done.to_json(), done)
