"""What a campaign measured, component by component: the truth that cheap scores are held against.

Rates are of single bit flips in activations of the whole model: the share of (element, bit, image) faults of a component's
tensors that change the top-1 (SDC-1), by population weights. A head's tensors are its slices of q, k, v, scores, softmax
and context; a chunk's or neuron's its columns of the MLP's hidden and activation tensors; a block's all of its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.campaign.files import PLAN, RESULTS, Files
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.results.reader import RESULT_TABLE, populations_of
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import Site, SiteTable
from testbed.models.config import ViTConfig
from testbed.sensitivity.circuits.components import Component

_BY_HEAD = ("attn.q", "attn.k", "attn.v", "attn.scores", "attn.softmax")  # (heads, ...)
_HIDDEN = ("mlp.fc1", "mlp.gelu", "mlp.gate", "mlp.gated")  # (tokens, neurons)
_COLUMNS = ["fault_id", "site", "index", "bit_class", "stratum", "image_id", "outcome"]


@dataclass(frozen=True)
class MeasuredRows:
    """One element per measured (fault, image). weight: the population that the row stands for; stratum: number of the stratum;
    pool: label of strata that are alike (site and class of bit); image: number of the image."""

    site: NDArray[np.object_]
    index: NDArray[np.int64]
    weight: NDArray[np.float64]
    stratum: NDArray[np.int64]
    pool: NDArray[np.int64]
    image: NDArray[np.int64]
    sdc1: NDArray[np.bool_]
    table: SiteTable

    def __len__(self) -> int:
        return len(self.weight)


def read_rows(path: Path) -> MeasuredRows:
    """Reads the rows of a finished campaign. Raises UsageError for a folder without one, or without single flips of the
    model's activations; StaleArtefact for files that were changed."""
    folder = RunFolder.existing(path)
    recorded_spec(folder)
    for file in (PLAN, RESULTS):
        folder.verify_file(file)
    wanted = [("target", "=", "model"), ("where", "=", "activation"), ("op", "=", "flip"), ("pattern", "=", "single")]
    wanted.append(
        ("scope", "=", "inference")
    )  # a flip that lasts for every image is another fault, and weighs otherwise
    frame = RESULT_TABLE.read(folder / RESULTS, _COLUMNS, wanted).to_pandas()
    if frame.empty:
        raise UsageError(
            f"{path} struck no activation of the model with single flips; there is nothing to compare with"
        )
    population = populations_of(frame["fault_id"].to_numpy(np.int64), folder / PLAN)
    drawn = frame.groupby("stratum")["fault_id"].transform("count").to_numpy()
    pool = frame.groupby(["site", "bit_class"], observed=True, sort=False).ngroup().to_numpy()
    return MeasuredRows(
        site=frame["site"].astype(str).to_numpy(object),
        index=frame["index"].to_numpy(np.int64),
        weight=population / drawn,
        stratum=pd.factorize(frame["stratum"])[0].astype(np.int64),
        pool=pool.astype(np.int64),
        image=pd.factorize(frame["image_id"])[0].astype(np.int64),
        sdc1=(frame["outcome"].astype(str) == "sdc1").to_numpy(),
        table=SiteTable.load(folder / Files("model").sites),
    )


def members(rows: MeasuredRows, parts: Sequence[Component], config: ViTConfig) -> NDArray[np.bool_]:
    """(parts, rows): is the row's struck element part of the component?"""
    membership = np.zeros((len(parts), len(rows)), bool)
    for name in dict.fromkeys(rows.site):
        of_site = np.flatnonzero(rows.site == name)
        site = rows.table[str(name)]
        for number, part in enumerate(parts):
            if site.block == part.block:
                membership[number, of_site] = _holds(part, site, rows.index[of_site], config)
    return membership


def _holds(part: Component, site: Site, index: NDArray[np.int64], config: ViTConfig) -> NDArray[np.bool_]:
    """Which of these elements of a site in the component's block belong to it."""
    if part.kind == "block":
        return np.ones(len(index), bool)
    what = site.name.split(".", 2)[2]
    if part.kind == "head" and what in _BY_HEAD:
        # differential attention has two maps per head: all first ones, then all second ones
        return np.isin(index // (site.elements // site.shape[0]) % config.heads[part.block], part.heads)
    if part.kind == "head" and what == "attn.context":
        return np.isin(index % site.shape[-1] // config.head_width, part.heads)
    if part.kind in ("chunk", "neuron") and what in _HIDDEN:
        return np.isin(index % site.shape[-1], part.neurons)
    return np.zeros(len(index), bool)


def rates(
    inside: NDArray[np.bool_], rows: MeasuredRows, times: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """(parts,) SDC-1 rate of each component; NaN where no row of it was run. times: how often each row counts."""
    weight = rows.weight if times is None else rows.weight * times
    total = inside @ weight
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, inside @ (weight * rows.sdc1) / np.where(total > 0, total, 1), np.nan)
