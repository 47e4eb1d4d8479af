"""Tools import what users can: the public interface. Whatever else one imports is listed here, with its reason."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
PUBLIC = {"testbed", "testbed.data", "testbed.testing", "testbed.engines.runner"}

_GENERATED = "pages of the reference are made from the tables that the code itself reads"
EXCEPTIONS: dict[str, tuple[set[str], str]] = {
    "bench_classspace_memory.py": (
        {"testbed.golden.source", "testbed.models.runs", "testbed.sensitivity.class_space.probe"},
        "fits probes to a few images, where a study takes some of each of a thousand classes",
    ),
    "bench_memory.py": (
        {
            "testbed.analysis.outputs.outcome",
            "testbed.campaign.execute.rows",
            "testbed.campaign.files",
            "testbed.campaign.folder.images",
            "testbed.campaign.plan.table",
            "testbed.campaign.plan.units",
            "testbed.campaign.results.compaction",
            "testbed.campaign.results.reader",
            "testbed.campaign.results.store",
            "testbed.campaign.spec.campaign",
            "testbed.campaign.summary.rates",
            "testbed.campaign.summary.tally",
            "testbed.core.outcome",
            "testbed.core.site",
        },
        "a million rows that no engine computed are planned, stored and summarised: each stage alone, in its own process",
    ),
    "bench_recheck.py": ({"testbed.campaign.work.dask.checks"}, "counts the rows that a cluster runs again"),
    "bench_units.py": ({"testbed.campaign.work"}, "hands units out one by one, which no option does"),
    "bench_workers.py": ({"testbed.campaign.pipeline"}, "reads the processor's clock around one stage of a campaign"),
    "benchmarks/adaptive.py": (
        {
            "testbed.analysis.adaptive.rule",
            "testbed.analysis.adaptive.simulation",
            "testbed.analysis.stats",
            "testbed.analysis.stratified",
        },
        "simulates campaigns of other designs, with the sampler's own statistics",
    ),
    "benchmarks/populations.py": (
        {"testbed.analysis.adaptive.simulation", "testbed.analysis.stratified"},
        "describes populations to the sampler's own simulation",
    ),
    "documentation/cli_pages.py": ({"testbed.cli.groups", "testbed.cli.main"}, _GENERATED),
    "documentation/column_page.py": ({"testbed.core.schema"}, _GENERATED),
    "documentation/folder_page.py": ({"testbed.core.folder.run_files"}, _GENERATED),
    "documentation/pages.py": ({"testbed.campaign.spec.schema"}, _GENERATED),
    "documentation/record_pages.py": (
        {
            "testbed.ber.record",
            "testbed.campaign.spec.tables",
            "testbed.compare.engine_record",
            "testbed.compare.precision_record",
            "testbed.core.folder.forms",
            "testbed.protect.paired.record",
            "testbed.protect.tradeoff.record",
            "testbed.sensitivity.campaign_lens.record",
            "testbed.sweep.record",
        },
        _GENERATED,
    ),
    "documentation/spec_page.py": ({"testbed.campaign.spec.errors", "testbed.campaign.spec.schema"}, _GENERATED),
    "documentation/summary_page.py": ({"testbed.campaign.summary.keys"}, _GENERATED),
    "gpu_checks/build.py": (
        {"testbed.core.process", "testbed.engines"},
        "compiles the kernels' libraries, and puts host memory in the place of a GPU's",
    ),
    "gpu_checks/kernels.py": ({"testbed.engines"}, "checks the kernels themselves, which lie beneath every engine"),
    "benchmarks/rankings.py": (
        {
            "testbed.sensitivity.rank.true_ranks",
            "testbed.core.site",
            "testbed.sensitivity.rank.effective",
            "testbed.sensitivity.rank.measured",
            "testbed.sensitivity.rank.validate",
        },
        "measures rates that are known, as the ranking's own statistics take them, hundreds of times",
    ),
    "check_estimates.py": (
        {"testbed.analysis.adaptive.rule", "testbed.analysis.adaptive.simulation"},
        "plays campaigns out on known populations, thousands at once, which no command does",
    ),
    "measure_dropping.py": (
        {
            "testbed.campaign.evaluate.contract",
            "testbed.campaign.evaluate.golden_words",
            "testbed.campaign.evaluate.injections",
            "testbed.campaign.files",
            "testbed.campaign.plan.units",
            "testbed.campaign.run",
            "testbed.engines.batches",
            "testbed.instrument.cut.flow",
            "testbed.instrument.cut.stages",
            "testbed.instrument.ports.feed",
            "testbed.instrument.ports.prefix",
        },
        "looks into a twin at the ends of its stages, where campaigns look at outputs",
    ),
    "malformed_inputs/folders.py": ({"testbed.core.folder.manifest"}, "signs manifests that it has damaged"),
    "malformed_inputs/running.py": (
        {"testbed.campaign.pipeline", "testbed.cli.main"},
        "forks processes that have imported every command, and calls the command line in them",
    ),
}


def imported() -> dict[str, set[str]]:
    """File -> modules of the testbed that it imports, wherever in it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(TOOLS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case ast.Import(names=aliases):
                    names = [alias.name for alias in aliases]
                case _:
                    continue
            found[path.relative_to(TOOLS).as_posix()] |= {n for n in names if n.split(".")[0] == "testbed"}
    return found


def test_tools_import_the_public_interface() -> None:
    private = {file: modules - PUBLIC for file, modules in imported().items() if modules - PUBLIC}
    assert private == {file: modules for file, (modules, _) in EXCEPTIONS.items()}


def test_tools_take_public_names_only() -> None:
    for path in sorted(TOOLS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in PUBLIC - {"testbed.engines.runner"}:
                names = __import__(node.module, fromlist=["__all__"]).__all__
                assert {alias.name for alias in node.names} <= {*names}, path
