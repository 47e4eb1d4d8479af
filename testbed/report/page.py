"""One self-contained page for one run: no scripts, no network, the same bytes for the same run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from testbed.analysis.outputs.classes import classes_told
from testbed.campaign.folder.pictures import LoadImage
from testbed.campaign.summary.record import Summary, ToleranceRecord
from testbed.core.folder.files import write_text
from testbed.core.words.text import visible_lines
from testbed.report import formatting
from testbed.report.read.evidence import Evidence, read_evidence
from testbed.report.read.images import stored_images
from testbed.report.read.worst_rows import compositions, worst_ended, worst_nonfinite, worst_predictions
from testbed.report.sections.bought import bought
from testbed.report.sections.effort import effort
from testbed.report.sections.failure_rate import failure_rate, not_sampled_text
from testbed.report.sections.fault_card import FaultCard, fault_card
from testbed.report.sections.key_figures import key_figures
from testbed.report.sections.lens import lens_sections
from testbed.report.sections.protection import protection
from testbed.report.sections.rates import (
    PLACES,
    attention_plots,
    bit_charts,
    heat_maps,
    op_plots,
    other_models,
    outcome_bars,
    tier_plots,
)
from testbed.report.sections.rounds import rounds
from testbed.report.sections.tolerance import sweep
from testbed.report.sections.verdict import verdict

REPORT = "report.html"
_WORST, _WORST_NONFINITE = 4, 2  # cards per place
_PRIVATE = ("name", "user")  # of the manifest's host: no reader of a report needs it


def build_report(run: Path, load_image: LoadImage | None = None) -> Path:
    """Writes ``report.html`` into the run folder, from its files alone, and returns its path.

    load_image: image id -> uint8 (H, W) or (H, W, 3); by default the pictures kept in the folder. Raises UsageError for
    a folder without a run, StaleArtefact naming a file that is missing or was changed.
    """
    evidence = read_evidence(run)
    path = run / REPORT
    write_text(path, visible_lines(render(evidence, load_image or stored_images(run, evidence.manifest))))
    return path


def render(evidence: Evidence, load_image: LoadImage | None) -> str:
    heat, colours = heat_maps(evidence)
    shares = compositions(evidence.run)
    outcomes, model_key = outcome_bars(evidence, "model", shares)
    attention_outcomes, attention_key = outcome_bars(evidence, "attention", shares)
    environment = Environment(
        loader=FunctionLoader(_package_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "rate_only", "interval", "percent", "small", "duration"):
        environment.filters[name] = getattr(formatting, name)
    return environment.get_template("page.html.j2").render(
        summary=evidence.summary,
        manifest=evidence.manifest,
        command=shlex.join(evidence.manifest["argv"]),
        style=Markup(_package_file("style.css")),
        outcome_names=formatting.OUTCOME_NAMES,
        tolerance=_tolerance(evidence.summary.tolerance),
        verdict=verdict(evidence),
        key_figures=key_figures(evidence),
        heat_maps=heat,
        colour_key=colours,
        bit_charts=bit_charts(evidence, "model"),
        tier_plots=tier_plots(evidence),
        op_plots=op_plots(evidence),
        other_models=other_models(evidence),
        outcome_bars=outcomes,
        outcome_key=model_key,
        attention_plots=attention_plots(evidence),
        attention_bits=bit_charts(evidence, "attention"),
        attention_bars=attention_outcomes,
        attention_key=attention_key,
        worst=_worst(evidence, load_image),
        failure_rate=failure_rate(evidence),
        lens=evidence.lens,
        lens_sections=lens_sections(evidence),
        not_sampled_text=not_sampled_text,
        named=_named(evidence.summary),
        sweep=sweep(evidence),
        protection=protection(evidence),
        bought=bought(evidence),
        rounds=rounds(evidence),
        effort=effort(evidence),
        stages={name: s for name, s in evidence.manifest["stages"].items() if name != "report"},
        host={name: v for name, v in evidence.manifest["host"].items() if name not in _PRIVATE},
    )


def _package_file(name: str) -> str:
    return (resources.files("testbed.report") / "templates" / name).read_text(encoding="utf-8")


def _tolerance(tolerance: ToleranceRecord) -> str:
    """ "atol 1e-4, rtol 1e-5"; several atol are those of the tiers."""
    per_tier = [formatting.small(atol) for atol in tolerance.atol]
    absolute = per_tier[0] if len(set(per_tier)) == 1 else f"by tier {', '.join(per_tier)}"
    return f"atol {absolute}, rtol {formatting.small(tolerance.rtol)}"


def _named(summary: Summary) -> str:
    """The classes of the named images; empty for a run that does not tell them."""
    counts = summary.images.classes if summary.images else None
    return classes_told(counts, len(summary.data.classes)) if counts else ""


@dataclass(frozen=True)
class WorstGroup:
    title: str
    cards: list[FaultCard]


def _worst(evidence: Evidence, load_image: LoadImage | None) -> list[WorstGroup]:
    table = evidence.site_table("model")
    groups = []
    for where, heading in PLACES.items():
        for title, faults in (
            (
                f"{heading}: surest predictions overturned, output finite",
                worst_predictions(evidence.run, where, _WORST),
            ),
            (f"{heading}: nonfinite output", worst_nonfinite(evidence.run, where, _WORST_NONFINITE)),
            (f"{heading}: no output, the engine ended", worst_ended(evidence.run, where, _WORST_NONFINITE)),
        ):
            if faults:
                cards = [fault_card(fault, evidence.classes, table, load_image) for fault in faults]
                groups.append(WorstGroup(title, cards))
    return groups
