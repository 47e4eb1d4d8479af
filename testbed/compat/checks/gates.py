"""What the gates of a campaign say of the model: zero-fault rows, suffix replay, weights."""

from __future__ import annotations

import re

import numpy as np
from onnx import numpy_helper

from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.proofs import SuffixRecord
from testbed.compat.checks.agreement import Flip, inject_weight
from testbed.compat.checks.eager import with_parameter
from testbed.compat.checks.subject import TARGET, CheckedExport, CheckFailed
from testbed.core.site import Site

_BIT = 27  # of the exponent: weights are small, and one of many
_LISTED = 3


def check_zero_fault(subject: CheckedExport) -> None:
    """All gates of a campaign. Raises CheckFailed for rows of no fault that are not the golden, GateFailed with what does
    not hold."""
    facts = _facts(subject)
    if facts.zero_fault.mismatches:
        raise CheckFailed(
            f"{facts.zero_fault.mismatches} of {facts.zero_fault.rows} rows without a fault are not golden"
        )
    if why := subject.campaign.workplace.tuned.why_batch:
        raise CheckFailed(f"batch 1 only: {why}")


def check_suffix(subject: CheckedExport) -> None:
    """Raises CheckFailed where faults in activations have to be evaluated by the whole twin."""
    proof = _facts(subject).proof(TARGET, "activation")
    if proof.by != "suffix":
        raise CheckFailed(f"evaluated whole: {proof.why}")
    assert isinstance(proof.seen, SuffixRecord)
    if proof.seen.mismatches or proof.seen.golden_mismatches:
        raise CheckFailed(f"{proof.seen.mismatches} of {proof.seen.rows} faults differ from the whole twin")


def check_weights(subject: CheckedExport) -> None:
    """Raises CheckFailed for blocks without named weights, weights that cannot be injected into, and for an injection that is
    not that of the library's own model."""
    facts = _facts(subject)
    named = [site for site in subject.table if site.where == "weight"]
    if bare := set(range(subject.entry.blocks)) - {site.block for site in named}:
        raise CheckFailed(f"no weight of blocks {', '.join(map(str, sorted(bare)))} has a name")
    if left_out := facts.left_out(TARGET):
        some = ", ".join(list(left_out)[:_LISTED])
        raise CheckFailed(f"{len(left_out)} weights left out ({some}): {next(iter(left_out.values()))}")
    compared = [_is_compared(subject, site) for site in _of_each_kind(named)]
    if not any(compared):
        raise CheckFailed("no named weight is a parameter of the library's own model")


def _facts(subject: CheckedExport) -> GateFacts:
    return subject.campaign.gate()


def _of_each_kind(sites: list[Site]) -> list[Site]:
    """The first of each kind in a block."""
    kinds = {re.sub(r"^block\.\d+\.", "", site.name): site for site in reversed(sites) if site.block is not None}
    return list(kinds.values())


def _is_compared(subject: CheckedExport, site: Site) -> bool:
    """Compares a flip with the library's model; False where none of its parameters holds these values, or several do."""
    stored = next(tensor for tensor in subject.plain.graph.initializer if tensor.name == site.tensor)
    array = numpy_helper.to_array(stored)
    values = np.ascontiguousarray(array.T if site.transposed else array).reshape(-1)
    flip = Flip(site, int(np.abs(values).argmax()), _BIT)
    faulty = with_parameter(subject.model, subject.inputs[:1], values, flip.index, flip.masks)
    if faulty is None:
        return False
    return inject_weight(subject, flip).is_compared([faulty])
