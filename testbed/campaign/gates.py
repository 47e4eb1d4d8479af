"""What must hold before a fault is run: parity with torch, no drift from plain to twin, exact zero-fault rows.

Weights have a gate of their own: `testbed.campaign.weight_gate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.campaign.execute import Strike
from testbed.campaign.plan import Leg, fault_row, table_of
from testbed.core.errors import GateFailed
from testbed.core.fault import masks_for
from testbed.core.site import Site
from testbed.instrument.feed import Words


def parity(pairs: Sequence[tuple[str, NDArray, NDArray]], target: str) -> list[dict[str, Any]]:
    """pairs: (name, outputs, outputs), each (n, ...). Largest |d|, and top-1 agreement where there are classes."""
    records = []
    for name, a, b in pairs:
        agreement = float((a.argmax(1) == b.argmax(1)).mean()) if target == "model" else None
        largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
        records.append({"target": target, "pair": name, "max_abs_diff": largest, "top1_agreement": agreement})
    return records


def check_bounds(records: Sequence[dict[str, Any]], parity_bound: float, drift_bound: float) -> None:
    """Raises GateFailed naming the pair, the deviation and the bound."""
    for record in records:
        drift = record["pair"] == "plain-twin"
        bound, key = (drift_bound, "gates.drift_max_abs") if drift else (parity_bound, "gates.parity_max_abs")
        if not record["max_abs_diff"] <= bound:
            raise GateFailed(
                f"{record['target']}: {record['pair']} differ by {record['max_abs_diff']:.3g}, above {key} = {bound:g};"
                " the engine does not compute the model, or the bound is too tight for it"
            )


def zero_fault_leg(target: str, where: str, sites: Sequence[Site], images: Sequence[str], rows: int, seed: int) -> Leg:
    """Identity masks at random sites, elements and images: the campaign's own path, with nothing changed."""
    rng = np.random.default_rng([seed, 0])
    faults = []
    for number in range(rows):
        site = sites[number % len(sites)]
        image = images[int(rng.integers(len(images)))] if where == "activation" else None
        index, masks = int(rng.integers(site.elements)), masks_for("identity", site.format)
        faults.append(fault_row(target, site, "identity", None, index, masks, image) | {"fault_id": number})
    return Leg(target, where, table_of(faults))


def zero_fault(strike: Strike, leg: Leg, words: Words) -> tuple[int, int]:
    """(rows run, rows that are not bit-identical to the engine golden). words: golden words of the leg's elements."""
    table = strike.rows(leg, words)
    outcomes = table.column("outcome").cast(pa.string()).to_pylist()
    return table.num_rows, sum(outcome != "identical" for outcome in outcomes)
