"""What happens to a Vision Transformer, as deployed, when a bit flips.

>>> import testbed
>>> with testbed.run("digits", "runs/digits", progress=testbed.ProgressBar()) as run:        # doctest: +SKIP
...     print(run.rates(by=["block", "bit_class"]))
...     hit = run.inject("block.1.attn.softmax", index=5, bit=30, image=run.image_ids[0])
...     print(hit.golden_value, "->", hit.faulty_value, hit.outcome)

Each name has its own help: help(testbed.run).

specs      load_spec, write_spec, list_specs, CampaignSpec
campaigns  plan, dry_run, run, read_status, open_run, list_runs; Run, Injection; ProgressBar, Snapshot
results    gather_rates, draw_figures, write_report, compare_runs, compare_protected, weigh_protection,
           sweep_tolerances, sweep_bit_errors
models     train_model, import_model, run_study, Model (golden, tiers, images, export), instrument_model, bench_models,
           compare_models, prune_model, protect_model, rank_components, validate_ranking, measure_circuits,
           measure_fuzziness, measure_class_space, measure_attention, examine_fault, examine_campaign; ScoreOptions
machine    diagnose, list_cache, clear_cache; TestbedError, which every error is that a user can put right

Also public: testbed.data (data sets of one's own) and testbed.testing (tests of engines). All else may change at any time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from testbed.core.process.telemetry import switch_off

if TYPE_CHECKING:
    __version__: str

    from testbed.api.campaigns import dry_run, open_run, plan, read_status, run
    from testbed.api.machine import clear_cache, list_cache
    from testbed.api.model.attention import measure_attention
    from testbed.api.model.circuits import measure_circuits
    from testbed.api.model.class_space import measure_class_space
    from testbed.api.model.fault_lens import examine_campaign, examine_fault
    from testbed.api.model.folder import Model
    from testbed.api.model.fuzziness import measure_fuzziness
    from testbed.api.model.importing import import_model
    from testbed.api.model.instrumenting import instrument_model
    from testbed.api.model.studying import run_study
    from testbed.api.model.tradeoff import compare_models
    from testbed.api.model.training import train_model
    from testbed.api.models import ScoreOptions, bench_models, prune_model, rank_components, validate_ranking
    from testbed.api.progress import ProgressBar
    from testbed.api.protection import protect_model
    from testbed.api.publishing import draw_figures, gather_rates, list_runs
    from testbed.api.specs import list_specs, load_spec, write_spec
    from testbed.api.studies import (
        compare_protected,
        compare_runs,
        sweep_bit_errors,
        sweep_tolerances,
        weigh_protection,
        write_report,
    )
    from testbed.campaign.injection import Injection
    from testbed.campaign.results.snapshot import Snapshot
    from testbed.campaign.run import Run
    from testbed.campaign.spec.campaign import CampaignSpec
    from testbed.core.errors import TestbedError
    from testbed.doctor.report import diagnose

__all__ = [
    "CampaignSpec",
    "Injection",
    "Model",
    "ProgressBar",
    "Run",
    "ScoreOptions",
    "Snapshot",
    "TestbedError",
    "bench_models",
    "clear_cache",
    "compare_models",
    "compare_protected",
    "compare_runs",
    "diagnose",
    "draw_figures",
    "dry_run",
    "examine_campaign",
    "examine_fault",
    "gather_rates",
    "import_model",
    "instrument_model",
    "list_cache",
    "list_runs",
    "list_specs",
    "load_spec",
    "measure_attention",
    "measure_circuits",
    "measure_class_space",
    "measure_fuzziness",
    "open_run",
    "plan",
    "protect_model",
    "prune_model",
    "rank_components",
    "read_status",
    "run",
    "run_study",
    "sweep_bit_errors",
    "sweep_tolerances",
    "train_model",
    "validate_ranking",
    "weigh_protection",
    "write_report",
    "write_spec",
]

# Each name loads its module when it is first used: `import testbed` takes milliseconds.
_HOMES = {
    "CampaignSpec": "testbed.campaign.spec.campaign",
    "Injection": "testbed.campaign.injection",
    "Model": "testbed.api.model.folder",
    "ProgressBar": "testbed.api.progress",
    "Run": "testbed.campaign.run",
    "ScoreOptions": "testbed.api.models",
    "Snapshot": "testbed.campaign.results.snapshot",
    "TestbedError": "testbed.core.errors",
    "bench_models": "testbed.api.models",
    "clear_cache": "testbed.api.machine",
    "compare_models": "testbed.api.model.tradeoff",
    "compare_protected": "testbed.api.studies",
    "compare_runs": "testbed.api.studies",
    "diagnose": "testbed.doctor.report",
    "draw_figures": "testbed.api.publishing",
    "dry_run": "testbed.api.campaigns",
    "gather_rates": "testbed.api.publishing",
    "import_model": "testbed.api.model.importing",
    "instrument_model": "testbed.api.model.instrumenting",
    "list_cache": "testbed.api.machine",
    "list_runs": "testbed.api.publishing",
    "list_specs": "testbed.api.specs",
    "load_spec": "testbed.api.specs",
    "examine_campaign": "testbed.api.model.fault_lens",
    "examine_fault": "testbed.api.model.fault_lens",
    "measure_attention": "testbed.api.model.attention",
    "measure_circuits": "testbed.api.model.circuits",
    "measure_class_space": "testbed.api.model.class_space",
    "measure_fuzziness": "testbed.api.model.fuzziness",
    "open_run": "testbed.api.campaigns",
    "plan": "testbed.api.campaigns",
    "protect_model": "testbed.api.protection",
    "prune_model": "testbed.api.models",
    "rank_components": "testbed.api.models",
    "read_status": "testbed.api.campaigns",
    "run": "testbed.api.campaigns",
    "run_study": "testbed.api.model.studying",
    "sweep_bit_errors": "testbed.api.studies",
    "sweep_tolerances": "testbed.api.studies",
    "train_model": "testbed.api.model.training",
    "validate_ranking": "testbed.api.models",
    "weigh_protection": "testbed.api.studies",
    "write_report": "testbed.api.studies",
    "write_spec": "testbed.api.specs",
}

switch_off()


def __getattr__(name: str) -> object:
    if name == "__version__":  # of the installed package; read only when asked for, as that takes milliseconds
        from importlib.metadata import version

        return version("testbed")
    if name == "load_run":  # until version 0.2
        from warnings import warn

        warn("testbed.load_run is deprecated; call testbed.open_run", DeprecationWarning, stacklevel=2)
        return import_module(_HOMES["open_run"]).open_run
    if name not in _HOMES:
        raise AttributeError(f"module 'testbed' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
