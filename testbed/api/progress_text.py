"""Snapshots and states of campaigns in words, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.campaign.results.snapshot import RateWidth, RecordedSnapshot, Snapshot

AnySnapshot = Snapshot | RecordedSnapshot
_SHOWN = 12  # rates that are told one by one


def lines(snapshot: AnySnapshot) -> list[str]:
    """A snapshot, or a status, for people: one line each for work, outcomes and interval, where they are known."""
    return [line for line in (work_line(snapshot), _outcomes(snapshot), _widest(snapshot), _rates(snapshot)) if line]


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


def _rates(snapshot: AnySnapshot) -> str:
    """Tell how well each rate is known, the widest for what is asked of it first."""
    rates = () if snapshot.widest is None else snapshot.widest.rates
    if len(rates) < 2:
        return ""
    by_width = sorted(rates, key=lambda rate: -rate.halfwidth / rate.margin)
    texts = [
        f"{_width(rate)} {_own_part(rate.group, rates)}{'' if rate.met else ' (open)'}" for rate in by_width[:_SHOWN]
    ]
    more = [f"{len(rates) - _SHOWN} more"] if len(rates) > _SHOWN else []
    return f"rates known: {sum(rate.met for rate in rates)} of {len(rates)}: {'; '.join([*texts, *more])}"


def _width(rate: RateWidth) -> str:
    """Tell the width as a share of the rate, or in points where there is none."""
    return f"±{100 * rate.halfwidth:.2g} points" if rate.relative is None else f"±{100 * rate.relative:.2g} %"


def _own_part(group: str, rates: Sequence[RateWidth]) -> str:
    """Shorten a group's name by what all of them have."""
    names = [rate.group.split(", ") for rate in rates]
    parts = group.split(", ")
    return (
        ", ".join(part for at, part in enumerate(parts) if any(name[at : at + 1] != [part] for name in names)) or group
    )


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
