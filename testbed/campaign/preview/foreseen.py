"""What a campaign would run into, as far as that can be told without running it: for a dry run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.analysis.outputs.choice import check_sizes_or_any, too_small
from testbed.analysis.outputs.confidence import TierEdges, tiers_from_logits, top1
from testbed.analysis.outputs.guessing import accuracy_against_guessing
from testbed.campaign.prepare.subject import KnownModel, PreviewSubject, check_accuracy
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.exposure import site_exposures
from testbed.core.errors import GateFailed, TestbedError
from testbed.core.process.resources import format_bytes
from testbed.core.site import SiteTable
from testbed.data import Dataset

_ROW_BYTES = 300  # of the log and of the finished table together, at most
_FILES_PER_TARGET = 2  # plain and twin


@dataclass(frozen=True)
class Foreseen:
    """``tier_images``: named images per tier, as far as they are known. ``warnings``: what will go on, but otherwise than
    one may expect; ``unchecked``: what only the run can tell."""

    tier_images: tuple[int, ...]
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]


def foreseen(
    spec: CampaignSpec, subject: PreviewSubject, known: KnownModel, tables: Mapping[str, SiteTable]
) -> Foreseen:
    """Raises what the run would raise, with the same words: UsageError, GateFailed."""
    site_exposures(spec, tables)
    warnings = [
        f"{pattern!r} excludes no {where} of {target}: there is none of that name"
        for (target, where), sections in spec.target_places.items()
        for pattern in dict.fromkeys(pattern for patterns in sections for pattern in patterns)
        if pattern in tables[target].unmatched_exclusions(where, [pattern])
    ]
    unchecked = ["the gates: parity, drift, zero-fault rows, live weights"]
    if spec.engine.precision == "int8":
        unchecked.append("scales and zero points of the calibrated file: this is one calibrated on nothing")
    if known.logits is None:
        unchecked += ["accuracy and images per tier: the golden of this model and these images is not recorded yet"]
        return Foreseen(tuple(spec.tiers.images), tuple(warnings), tuple(unchecked))
    images, more_warnings = _of_golden(spec, subject.dataset, known)
    return Foreseen(images, (*warnings, *more_warnings), tuple(unchecked))


def _of_golden(spec: CampaignSpec, dataset: Dataset, known: KnownModel) -> tuple[tuple[int, ...], Sequence[str]]:
    """Named images per tier, and what to warn of."""
    assert known.logits is not None
    test, predicted, warnings = dataset.test, top1(known.logits), list[str]()
    check_accuracy(float((predicted == test.labels).mean()), spec.gates.test_accuracy, "choose another model")
    guessing = accuracy_against_guessing(predicted, test.labels, len(dataset.classes))
    if guessing.is_guessing:
        if not spec.gates.allow_chance_accuracy:
            raise GateFailed(
                f"test {guessing.describe()} To strike it all the same, set gates.allow_chance_accuracy = true"
            )
        warnings.append(f"test {guessing.describe()}")
    tiers = tiers_from_logits(known.logits, test.labels, TierEdges(spec.tiers.edges), test.ids)
    check_sizes_or_any(tiers, spec.tiers.images, spec.tiers.exact)
    warnings += [f"tier {warning}; all of them would be taken" for warning in too_small(tiers, spec.tiers.images)]
    have = zip(tiers.positions, spec.tiers.images, strict=True)
    return tuple(min(len(positions), wanted) for positions, wanted in have), warnings


def bytes_needed(rows: int, images: int, dataset: Dataset, plain: Mapping[str, bytes]) -> int:
    """Bytes of the disk that are needed at least: files of every target, inputs of the named images, the golden's
    logits, the rows."""
    files = _FILES_PER_TARGET * sum(map(len, plain.values()))
    inputs = 4 * images * dataset.channels * dataset.image**2 * len(plain)
    logits = 4 * len(dataset.test) * len(dataset.classes)
    return files + inputs + logits + rows * _ROW_BYTES


def check_disk(folder: Path, needed: int) -> None:
    """Raises TestbedError where that will not fit. folder: need not exist yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise TestbedError(
            f"the run needs about {format_bytes(needed)} in {folder}, where {format_bytes(free)} are free; free some space, ask"
            " for fewer faults (per_stratum), or name another disk with --run"
        )
