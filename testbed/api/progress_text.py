"""Snapshots and states of campaigns in words, for terminals."""

from __future__ import annotations

from testbed.campaign.results.snapshot import RecordedSnapshot, Snapshot

AnySnapshot = Snapshot | RecordedSnapshot


def lines(snapshot: AnySnapshot) -> list[str]:
    """A snapshot, or a status, for people: one line each for work, outcomes and interval, where they are known."""
    return [line for line in (work_line(snapshot), _outcomes(snapshot), _widest(snapshot)) if line]


def work_line(snapshot: AnySnapshot, with_bar: bool = True) -> str:
    if steps := snapshot.steps:
        share = steps.done / max(1, steps.total)
        parts = [f"{steps.done:,} of {steps.total:,} {steps.what} ({100 * share:.0f} %)"]
        if steps.per_second:
            parts.append(f"{steps.per_second:,.3g}/s")
        if steps.eta_s is not None and steps.done < steps.total:
            parts.append(f"about {duration(steps.eta_s)} to go")
        return (f"{snapshot.stage} {bar(share, 12)} " if with_bar else "") + ", ".join(parts)
    done, faults = snapshot.faults_done, snapshot.faults
    if done is None:
        return ""
    parts = [f"{done:,} faults"]
    if faults:
        drawn = f"{bar(done / faults)} " if with_bar else ""
        parts = [f"{drawn}{done:,} of {faults:,} faults ({100 * done / faults:.0f} %)"]
    if snapshot.faults_per_second:
        parts.append(f"{snapshot.faults_per_second:,.3g}/s")
    if snapshot.eta_s is not None:
        parts.append(f"about {duration(snapshot.eta_s)} to go")
    if snapshot.workers:
        parts.append(f"{snapshot.workers} worker{'s' if snapshot.workers > 1 else ''}")
    return ", ".join(parts)


def _outcomes(snapshot: AnySnapshot) -> str:
    outcomes = snapshot.outcomes
    rows = sum(outcomes.values())
    return ", ".join(
        f"{name} {count:,} ({100 * count / rows:.2g} %)"
        for name, count in sorted(outcomes.items(), key=lambda item: -item[1])
    )


def _widest(snapshot: AnySnapshot) -> str:
    widest = snapshot.widest
    if widest is None:
        return ""
    half, group = 100 * widest.halfwidth, f"{widest.group} ({widest.faults:,} faults)"
    if widest.margin is None:
        return f"widest interval now about ±{half:.2g} points at 95 %: {group}"
    confidence, margin = 100 * widest.confidence, 100 * widest.margin
    return f"widest interval ±{half:.2g} points at {confidence:g} %, asked for ±{margin:g}: {group}"


def bar(share: float, width: int = 24) -> str:
    full = round(width * min(1.0, share))
    return "━" * full + "─" * (width - full)


def duration(seconds: float) -> str:
    """Two units at most: 3 d 4 h, 5 min 20 s."""
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
