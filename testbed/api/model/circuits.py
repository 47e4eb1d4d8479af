"""Circuits from Python: how faithful they are over their size, and which edges matter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import pandas as pd

from testbed.api.models import ScoreOptions
from testbed.api.progress import ProgressCallback, steps_of
from testbed.api.records import StudyResult
from testbed.core.words import html

if TYPE_CHECKING:
    from testbed.sensitivity.circuit_study.records import CircuitStudy


@dataclass(frozen=True, eq=False)
class CircuitResult(StudyResult):
    """Circuits of a model.

    Attributes:
        content: The record with fields instead of keys: `circuits.content.curves[0].cpr.value`.
    """

    content: CircuitStudy

    @property
    def areas(self) -> pd.DataFrame:
        """One row per order, the random one last: CPR and CMD with intervals, and what they gain over a random order."""
        from testbed.sensitivity.circuit_study.artefacts import area_rows

        return pd.DataFrame(area_rows(self.content))

    @property
    def curves(self) -> pd.DataFrame:
        """One row per order and size: faithfulness with its interval."""
        from testbed.sensitivity.circuit_study.artefacts import curve_rows

        return pd.DataFrame(curve_rows(self.content))

    @property
    def scores(self) -> pd.DataFrame:
        """One row per component: its score by each method."""
        from testbed.sensitivity.circuit_study.artefacts import component_rows

        return pd.DataFrame(component_rows(self.content))

    @property
    def edges(self) -> pd.DataFrame:
        """One row per edge and method, the largest first: from, to, score. Empty unless asked for."""
        return pd.DataFrame(list(self.record["edges"]), columns=["by", "source", "reader", "score"])

    def _repr_html_(self) -> str:
        heading = html.heading(f"Circuits of {Path(self.record['run']).name}: {self.record['components']} components")
        rows = [
            (curve.by, *(f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]" for a in (curve.cpr, curve.cmd)))
            for curve in self.content.curves
        ]
        sentences = [curve.verdict for curve in self.content.curves if curve.verdict]
        sentences += [f"{len(self.content.edges):,} edges: .edges"] * bool(self.content.edges)
        return heading + html.table(("order", "CPR", "CMD"), rows) + "".join(map(html.paragraph, sentences))


def measure_circuits(
    model: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    by: Sequence[Literal["acdc", "eap", "eap-ig"]] = ("acdc", "eap", "eap-ig"),
    components: Sequence[Literal["head", "chunk", "neuron"]] = ("head", "chunk"),
    curves: bool = True,
    edges: bool = False,
    metric: Literal["logit_difference", "log_probability"] = "logit_difference",
    over: int = 256,
    shares: Sequence[float] | None = None,
    orders: int = 10,
    progress: ProgressCallback | None = None,
    **options: Unpack[ScoreOptions],
) -> CircuitResult:
    """Measure how faithful a model's circuits are over their size, and score its edges.

    Args:
        model: Run folder of the model.
        to: Folder for JSON, CSV and the figure. Default: nothing is written.
        by: Scores whose order gives the circuits.
        components: What circuits are of.
        curves: Measure circuits of every size.
        edges: Also score the edges by eap and eap-ig.
        metric: What a circuit is to keep.
        over: Test images to measure circuits on, a random choice by class.
        shares: Sizes of circuits, as shares of the components. Default: 12 from 0.01 to 0.9; none and all are added.
        orders: Random orders, as a baseline.
        progress: Called with a `Snapshot` now and then.
        **options: See `ScoreOptions`; `ablation` is that of the circuits too.

    Returns:
        CPR and CMD of every order with intervals over images, the curves, the scores and the edges.

    Raises:
        UsageError: For what does not go together, masks that do not fit, and a model that is no better than the one
            without any of its components.

    Example:
        ```py
        circuits = testbed.measure_circuits("runs/digits", by=["eap-ig"], over=64, images=64)
        print(circuits.areas[["by", "cpr", "cmd"]])
        ```
    """
    from testbed.sensitivity.circuit_study.study import CircuitRequest, study_circuits
    from testbed.sensitivity.circuits.faithfulness import SHARES
    from testbed.sensitivity.rank.settings import ScoreSettings

    request = CircuitRequest(
        methods=tuple(by),
        kinds=tuple(components),
        settings=ScoreSettings(**options),
        metric=metric,
        over=over,
        shares=SHARES if shares is None else tuple(shares),
        orders=orders,
        curves=curves,
        edges=edges,
    )
    steps = steps_of(progress, "circuits")
    study = study_circuits(
        Path(model), request, None if to is None else Path(to), progress=lambda total: steps(total, "circuits")
    )
    return CircuitResult(study.to_json(), study)
