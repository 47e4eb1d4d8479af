"""How the outputs were found: the work that was not done, and what showed that nothing was lost by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from testbed.campaign.proofs import WHOLE, AttentionRecord, Proof, SuffixRecord, WeightRecord
from testbed.campaign.summary.record import EvaluatedRows
from testbed.core.errors import StaleArtefact
from testbed.core.site import Where
from testbed.report.formatting import count, percent, percent_bound
from testbed.report.read.evidence import Evidence

_WAYS = {
    "whole": ("whole network", "The whole engine was run."),
    "suffix": ("suffix", "Run from the fault's block on, from stored fault-free inputs of that block."),
    "rows": ("tokens it reaches", "In the fault's own block, or in the last, only the tokens that it can reach."),
    "unchanged": ("unchanged", "Run up to a place where every bit was the fault-free one again; the rest follows."),
    "dead": ("not run", "The struck element cannot reach the output, so the output is the fault-free one."),
    "incremental": (
        "incremental",
        "Computed from the fault-free output and the change, to within a stored bound; exactly where the bound leaves a"
        " decision open.",
    ),
}
_DUES = {"crash": "crashed the engine", "hang": "hung the engine", "nonfinite": "seen by the assumed detector"}
_FAILURES = {
    "crashes": ("engine crash", "engine crashes"),
    "hangs": ("hang", "hangs"),
    "losses": ("worker lost, its work done again", "workers lost, their work done again"),
    "blamed": ("fault that fails on its own", "faults that fail on their own"),
}


@dataclass(frozen=True)
class EvaluationShares:
    """The shares of one way of evaluation. shares: of the rows of each column; None where there were none."""

    name: str
    description: str
    shares: tuple[float | None, ...]


@dataclass(frozen=True)
class Effort:
    columns: tuple[str, ...]
    rows: tuple[int, ...]
    ways: tuple[EvaluationShares, ...]
    proofs: tuple[tuple[str, str], ...]
    dues: tuple[str, ...]
    failures: tuple[str, ...]
    refused: tuple[str, ...]


def effort(evidence: Evidence) -> Effort:
    records, failures = evidence.summary.evaluation, evidence.summary.failures
    target_places: dict[tuple[str, Where], dict[str, int]] = {}
    totals: dict[tuple[str, Where], int] = {}
    for record in records:
        target_place = record.target, record.where
        totals[target_place] = totals.get(target_place, 0) + record.rows
        ways = target_places.setdefault(target_place, {})
        for way, share in record.how.items():
            ways[way] = ways.get(way, 0) + share.rows
    occurring = [way for way in _WAYS if any(way in ways for ways in target_places.values())]
    return Effort(
        columns=tuple(_target_place(*target_place) for target_place in target_places),
        rows=tuple(totals.values()),
        ways=tuple(
            EvaluationShares(
                *_WAYS[way],
                tuple(_share(target_places[target_place], way, totals[target_place]) for target_place in target_places),
            )
            for way in occurring
        ),
        proofs=tuple((_target_place(proof.target, proof.where), _proof(proof)) for proof in evidence.summary.proofs),
        dues=tuple(_dues(records)),
        failures=tuple(
            _counted(number, *words) for name, words in _FAILURES.items() if (number := getattr(failures, name))
        ),
        refused=tuple(failures.refused),
    )


def _share(ways: Mapping[str, int], way: str, total: int) -> float | None:
    return ways[way] / total if way in ways else None


def _target_place(target: str, where: Where) -> str:
    return f"{target}, {'activations' if where == 'activation' else 'weights'}"


def _dues(records: Sequence[EvaluatedRows]) -> Iterator[str]:
    """Rows without a usable output, by cause."""
    for cause, words in _DUES.items():
        shares = [record.due[cause].rows for record in records if cause in record.due]
        if shares:
            rows = sum(record.rows for record in records)
            yield f"{count(sum(shares))} rows ({percent(sum(shares) / rows)}) {words}"


def _counted(number: int, singular: str, plural: str) -> str:
    return f"{count(number)} {singular if number == 1 else plural}"


def _proof(proof: Proof) -> str:
    """What the gate of this target's evaluation saw, in a sentence. Raises StaleArtefact for another version's record."""
    if proof.by == WHOLE:
        return f"Everything was run for every fault: {proof.why or 'nothing faster is known'}."
    try:
        seen = proof.seen
    except ValueError as error:  # of pydantic
        raise StaleArtefact(
            f"the summary's record of the evaluation {proof.key!r} is not of this version;"
            " rerun with `testbed campaign run SPEC --redo gates`"
        ) from error
    match seen:
        case SuffixRecord() as record:
            return _suffix(record)
        case AttentionRecord() as record:
            return _attention(record)
        case WeightRecord() as record:
            return f"{count(record.faults)} sampled faults gave the bits of the whole engine both ways."
        case None:
            return "The gates recorded nothing of it."


def _suffix(record: SuffixRecord) -> str:
    plan = record.plan or {}
    off = [name for name in ("last", "inside", "rows", "dead") if not plan.get(name, True)]
    without = f" Left off, as their bits differed or they gained nothing: {', '.join(off)}." if off else ""
    dead = record.ways.get("dead")
    run = f", {count(dead.rows)} of them taken for dead and run all the same" if dead else ""
    return (
        f"{count(record.rows)} sampled faults by {len(record.ways)} ways{run}: {count(record.mismatches)} differ from the"
        f" whole engine in any bit; nor do {count(record.golden_images)} fault-free images"
        f" ({count(record.golden_mismatches)} differ).{without}"
    )


def _attention(record: AttentionRecord) -> str:
    sites = record.sites
    faults = sum(site.faults for site in sites.values())
    paths: dict[str, list[str]] = {}
    for name, site in sites.items():
        paths.setdefault(site.path, []).append(name)
    path_text = "; ".join(f"{path} for {', '.join(names)}" for path, names in paths.items())
    shares = [site.incremental for site in sites.values() if site.incremental is not None]
    bound = f" Incremental results used at most {percent_bound(max(shares))} of their error bound." if shares else ""
    return f"{count(faults)} sampled faults, the exact paths bit for bit against the whole engine: {path_text}.{bound}"
