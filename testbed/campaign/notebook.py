"""A run as a notebook shows it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.record import RateRecord, Summary
from testbed.core.words import html


def unfinished_html(spec: CampaignSpec, path: Path, stages: Iterable[str]) -> str:
    """What is there so far."""
    facts = _facts(spec, path) | {"stages done": ", ".join(stages)}
    return html.heading(f"Campaign {spec.name}: not finished") + html.facts(facts)


def finished_html(spec: CampaignSpec, path: Path, summary: Summary) -> str:
    """What ran, and the rates of each fault model."""
    facts = _facts(spec, path)
    model = summary.model
    facts |= {
        "model": f"{model.preset} on {summary.data.name}, test accuracy {100 * model.test_accuracy:.2f} %",
        "faults": f"{summary.faults:,}",
        "rows": f"{summary.rows:,}",
    }
    measures = ("sdc1", "outside", "nonfinite")
    rows = [
        (m.target, m.where, m.op, f"{m.faults:,}", *(_percent(m.rate(measure)) for measure in measures))
        for m in summary.marginals
        if m.by == "all"
    ]
    headings = ("target", "faults in", "fault", "faults", "SDC-1", "outside tolerance", "non-finite")
    title = f"Rates in % with {100 * summary.confidence:g} % intervals"
    return (
        html.heading(f"Campaign {spec.name}")
        + html.facts(facts)
        + html.paragraph(title)
        + html.table(headings, rows)
        + html.paragraph(summary.statement)
    )


def _facts(spec: CampaignSpec, path: Path) -> dict[str, object]:
    return {"folder": path, "engine": f"{spec.engine.backend} {spec.engine.precision}"}


def _percent(rate: RateRecord | None) -> str:
    if rate is None:
        return ""
    return f"{100 * rate.rate:.2f} [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
