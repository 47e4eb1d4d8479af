"""The words of faults that strike more than one: a file beside the plan, and what is read from it.

The plan has a fault's first word; only faults with more are in this file, all their words in the order they are struck.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.campaign.files import points_file
from testbed.campaign.results.arrow import Coded
from testbed.core.arrays import Words32
from testbed.core.errors import StaleArtefact
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import WeightFault
from testbed.instrument.ports.feed import NO_SITE, PortFeed

SCHEMA = pa.schema(
    [
        ("fault_id", pa.int64()),
        ("point", pa.int32()),
        ("site", pa.dictionary(pa.int32(), pa.string())),
        ("index", pa.int64()),
        ("and_mask", pa.uint32()),
        ("or_mask", pa.uint32()),
        ("xor_mask", pa.uint32()),
    ]
)


@dataclass(frozen=True)
class Points:
    """The struck words of n faults, (n, K) each, K those of the fault with most. A fault's own come first; the rest has
    ``site`` NO_SITE. ``site``: into ``names``. ``index``: flat, canonical.

    Activations are in the order in which the engine computes them: the first word is golden until it is struck.
    """

    names: tuple[str, ...]
    site: NDArray[np.int64]
    index: NDArray[np.int64]
    and_mask: Words32
    or_mask: Words32
    xor_mask: Words32

    @classmethod
    def single(cls, sites: Coded, index: NDArray[np.int64], masks: Sequence[Words32]) -> Points:
        """One word each; (n,) arrays."""
        keep, put, turn = (mask[:, None] for mask in masks)
        return cls(sites.names, sites.codes[:, None], index[:, None], keep, put, turn)

    def __len__(self) -> int:
        return len(self.site)

    def take(self, faults: NDArray[np.int64]) -> Points:
        return Points(self.names, *(getattr(self, f.name)[faults] for f in fields(self)[1:]))

    def feed(self, table: SiteTable) -> PortFeed:
        """What the twin's ports are fed for these faults, golden words unknown (0)."""
        ports = np.array([table.ports[name] for name in self.names] + [NO_SITE], np.int64)  # NO_SITE indexes the last
        none = np.zeros(self.site.shape, np.uint32)
        return PortFeed(ports[self.site], self.index, self.and_mask, self.or_mask, self.xor_mask, none)

    def weights(self, fault: int, table: SiteTable) -> list[WeightFault]:
        """Where one fault strikes stored weights."""
        sites, places = self.site[fault], []
        for code in dict.fromkeys(sites[sites != NO_SITE]):
            at_site = sites == code
            site = table[self.names[code]]
            masks = (mask[fault, at_site] for mask in (self.and_mask, self.or_mask, self.xor_mask))
            places.append(WeightFault(site.tensor, stored_indices(site, self.index[fault, at_site]), *masks))
        return places

    def all_weights(self, table: SiteTable) -> Iterator[list[WeightFault]]:
        """Where each fault strikes stored weights, fault after fault."""
        if self.site.shape[1] != 1:
            yield from (self.weights(fault, table) for fault in range(len(self)))
            return
        sites = [table[name] for name in self.names]
        stored = np.empty_like(self.index)
        for code, site in enumerate(sites):
            at_site = self.site == code
            stored[at_site] = stored_indices(site, self.index[at_site])
        words = zip(self.site[:, 0].tolist(), stored, self.and_mask, self.or_mask, self.xor_mask, strict=True)
        yield from ([WeightFault(sites[code].tensor, *word)] for code, *word in words)

    def with_more(self, faults: NDArray[np.int64], more: pa.Table) -> Points:
        """These, but with all words of ``faults`` (rows, ascending), from ``more``, in the same order of faults."""
        ids = more.column("fault_id").to_numpy()
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        counts = np.diff(starts, append=len(ids))
        rows = np.repeat(faults, counts)
        places = np.arange(len(ids)) - np.repeat(starts, counts)
        sites = more.column("site").combine_chunks()
        used, codes = np.unique(sites.indices.to_numpy(), return_inverse=True)  # its dictionary may name others
        known = sites.dictionary.take(pa.array(used)).to_pylist()
        names = tuple(dict.fromkeys([*self.names, *known]))
        codes = np.array([names.index(name) for name in known], np.int64)[codes]
        width = max(self.site.shape[1], int(counts.max(initial=1)))

        def widened(own: NDArray, unused: int, values: NDArray) -> NDArray:
            wide = np.full((len(self), width), unused, own.dtype)
            wide[:, : own.shape[1]] = own
            wide[rows, places] = values
            return wide

        masks = (
            widened(getattr(self, name), unused, more.column(name).to_numpy())
            for name, unused in (("and_mask", 0xFFFFFFFF), ("or_mask", 0), ("xor_mask", 0))
        )
        index = widened(self.index, 0, more.column("index").to_numpy())
        return Points(names, widened(self.site, NO_SITE, codes), index, *masks)


def stored_indices(site: Site, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat indices in the stored tensor of flat canonical ones. Raises UsageError past the end."""
    if len(index):
        site.stored_index(int(index.min()))
        site.stored_index(int(index.max()))
    if not site.transposed:
        return index
    rows, columns = site.shape
    row, column = np.divmod(index, columns)
    stored: NDArray[np.int64] = column * rows + row
    return stored


def points_path(plan: Path) -> Path:
    """The path of the points file beside a plan."""
    return plan.with_name(points_file(plan.name))


def read_points(path: Path, fault_ids: NDArray[np.int64]) -> pa.Table:
    """The words of these faults (ascending ids), each with more than one, reading no more of the file than holds them.

    Raises StaleArtefact for a file that is damaged, or lacks some of them.
    """
    low, high = int(fault_ids[0]), int(fault_ids[-1])
    try:
        points = pq.read_table(path, filters=[("fault_id", ">=", low), ("fault_id", "<=", high)])
    except (OSError, pa.ArrowException) as error:
        raise StaleArtefact(
            f"{path} is not a readable list of struck words; rerun with `testbed campaign run SPEC --redo plan`"
        ) from error
    points = points.unify_dictionaries().combine_chunks()
    ids = points.column("fault_id").to_numpy()
    if not np.isin(fault_ids, ids).all():
        raise StaleArtefact(
            f"{path} lacks words of the plan's faults; rerun with `testbed campaign run SPEC --redo plan`"
        )
    return points.filter(pa.array(np.isin(ids, fault_ids))) if len(np.unique(ids)) > len(fault_ids) else points
