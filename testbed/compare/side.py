"""A finished campaign as one side of a comparison: its rows, how they were drawn, and what judged them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from testbed.analysis.domains import Estimate
from testbed.analysis.survey import SurveyDesign
from testbed.campaign.files import PLAN, RESULTS, TIERS
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.folder.images import read_tiers
from testbed.campaign.results.reader import RESULT_TABLE, list_values, populations_of
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.compare.record import ComparedCampaign, ComparedRate, ComparedTolerance
from testbed.core.fault import FaultModel
from testbed.core.folder.run_files import WEIGHTS
from testbed.core.folder.runfolder import RunFolder

TEXT = (
    "target",
    "where",
    "site",
    "format",
    "op",
    "pattern",
    "scope",
    "bit_class",
    "image_id",
    "outcome",
    "engine_hash",
    "deployment_id",
)
_NUMBERS = (
    *("fault_id", "index", "bit", "and_mask", "or_mask", "xor_mask", "points", "stratum", "tier"),
    *("golden_word", "faulty_word"),
    *("faulty_value", "nonfinite", "max_abs_diff", "top1_golden", "top1_faulty", "margin_golden", "margin_faulty"),
)
_WHOLE = ("index", "bit", "points", "top1_golden", "top1_faulty")


@dataclass(frozen=True)
class Side:
    """Raises UsageError for a folder without a campaign, StaleArtefact for one that is not finished or was changed."""

    folder: RunFolder
    spec: CampaignSpec

    @classmethod
    def of(cls, path: Path) -> Self:
        folder = RunFolder.existing(path)
        spec = recorded_spec(folder)
        for file in (TIERS, PLAN, RESULTS):
            folder.verify_file(file)
        return cls(folder, spec)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def precision(self) -> str:
        return self.spec.engine.precision

    @property
    def model_hash(self) -> str | None:
        """The hash of the trained weights, which every precision is made from; None where the run holds no such
        file."""
        outputs = self.folder.manifest["stages"].get("train", {}).get("outputs", {})
        return outputs.get(WEIGHTS)

    @property
    def is_protected(self) -> bool:
        """Whether the deployed file corrects or checks itself."""
        gates = self.folder.record("gates")
        return gates is not None and gates.facts.get("passes") is not None

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Ids of the campaign's named images."""
        return tuple(image.id for image in read_tiers(self.folder / TIERS).named)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One per (fault, image): the result columns that a comparison needs, ``population`` (of the stratum), ``atol``
        (of the image's tier) and ``masking_atol`` at the campaign's rtol (NaN where that is not on its grid).

        ``op`` is the fault model's label: no rate mixes patterns or scopes. Whole numbers that can be missing are -1
        then: a whole-word fault's bit, the top-1 without classes.
        """
        path = self.folder / RESULTS
        table = RESULT_TABLE.read(path, [*TEXT, *_NUMBERS, "masking_atol"])
        frame = pd.DataFrame(
            {name: table.column(name).cast(pa.string()).to_pandas() for name in TEXT}
            | {name: _filled(table.column(name), name).to_numpy() for name in _NUMBERS}
        )
        frame["op"] = _labels(frame)
        tolerance = self.spec.tolerance
        tiers = len(self.spec.tiers.edges)
        if len(frame) and frame["tier"].max() >= tiers:
            raise RESULT_TABLE.refused(path, f"column 'tier' has {frame['tier'].max()}; the spec has {tiers} tiers")
        frame["atol"] = np.array(tolerance.per_tier(tiers))[frame["tier"]]
        frame["masking_atol"] = np.nan
        if tolerance.rtol in tolerance.rtol_grid:
            grid = tolerance.rtol_grid
            frame["masking_atol"] = list_values(
                table.column("masking_atol"), grid.index(tolerance.rtol), len(grid), path
            )
        frame["population"] = populations_of(frame["fault_id"].to_numpy(np.int64), self.folder / PLAN)
        return frame

    def to_record(self) -> ComparedCampaign:
        """What ran."""
        tolerance = self.spec.tolerance
        return ComparedCampaign(
            folder=str(self.path),
            name=self.spec.name,
            seed=self.spec.seed,
            engine=self.spec.engine,
            engine_hashes=sorted(self.rows["engine_hash"].unique()),
            deployment_ids=sorted(self.rows["deployment_id"].unique()),
            tolerance=ComparedTolerance(atol=list(tolerance.per_tier(len(self.spec.tiers.edges))), rtol=tolerance.rtol),
            detector=self.spec.detector,
            images=len(self.images),
            faults=int(self.rows["fault_id"].nunique()),
            rows=len(self.rows),
        )


def compared_rate(estimate: Estimate) -> ComparedRate:
    """The rate without what it rests on."""
    return ComparedRate(
        rate=estimate.rate,
        low=estimate.low,
        high=estimate.high,
        high_95=estimate.high_95,
        high_99=estimate.high_99,
    )


def design_of(rows: pd.DataFrame) -> SurveyDesign:
    """The survey design of rows. rows: columns stratum, population, fault_id, site, op, bit_class. Strata of one site,
    operation and bit class lend each other their variance where only one fault was drawn from each. (A stratum of
    faults at several sites goes by the first that was drawn.)"""
    site = rows.groupby("stratum", sort=False)["site"].transform("first")
    alike = rows.assign(site=site).groupby(["site", "op", "bit_class"], sort=False).ngroup().to_numpy()
    return SurveyDesign(rows["stratum"].to_numpy(), rows["population"].to_numpy(), rows["fault_id"].to_numpy(), alike)


def _labels(frame: pd.DataFrame) -> pd.Series:
    """(rows,) of the fault models."""
    keys = ["target", "where", "op", "pattern", "scope"]
    models = frame[keys].drop_duplicates()
    models["label"] = [FaultModel(*model).label for model in models.itertuples(index=False)]
    return frame[keys].merge(models, on=keys, how="left")["label"]


def _filled(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if name == "nonfinite":
        return pc.fill_null(column, False)
    return pc.fill_null(column, -1) if name in _WHOLE else column
