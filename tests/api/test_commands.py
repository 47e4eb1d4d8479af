"""Whatever a command does, `import testbed` does without an internal import; or it is said here why not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click
import pytest

import testbed
from testbed.cli.main import cli

FUNCTIONS = {
    "bench": "testbed.bench_models",
    "cache": "testbed.list_cache",
    "cache clear": "testbed.clear_cache",
    "campaign ber": "testbed.sweep_bit_errors",
    "campaign compare": "testbed.compare_runs",
    "campaign list": "testbed.list_specs",
    "campaign new": "testbed.write_spec",
    "campaign plan": "testbed.plan",
    "campaign run": "testbed.run",
    "campaign run --dry-run": "testbed.dry_run",
    "campaign show": "testbed.Run.summary",
    "campaign status": "testbed.read_status",
    "attention": "testbed.measure_attention",
    "circuits": "testbed.measure_circuits",
    "classspace": "testbed.measure_class_space",
    "data check": "testbed.data.load",
    "data list": "testbed.data.entries",
    "study": "testbed.run_study",
    "study --dry-run": "testbed.run_study",
    "doctor": "testbed.diagnose",
    "export": "testbed.Model.export",
    "export-weights": "testbed.Model.export_weights",
    "fault replay": "testbed.Run.replay",
    "fault lens": "testbed.examine_campaign",
    "fault show": "testbed.examine_fault",
    "figures": "testbed.draw_figures",
    "fuzziness": "testbed.measure_fuzziness",
    "golden export-originals": "testbed.Model.export_originals",
    "golden import-originals": "testbed.Model.import_originals",
    "golden record": "testbed.Model.record_golden",
    "golden verify": "testbed.Model.verify_golden",
    "import": "testbed.import_model",
    "instrument": "testbed.instrument_model",
    "protect compare": "testbed.compare_protected",
    "protect run": "testbed.protect_model",
    "protect tradeoff": "testbed.weigh_protection",
    "prune": "testbed.prune_model",
    "rank": "testbed.rank_components",
    "rank --validate": "testbed.validate_ranking",
    "report": "testbed.write_report",
    "results": "testbed.gather_rates",
    "runs": "testbed.list_runs",
    "show": "testbed.Run.summary",
    "subset": "testbed.Model.choose_images",
    "sweep": "testbed.sweep_tolerances",
    "tiers": "testbed.Model.sort_tiers",
    "tradeoff": "testbed.compare_models",
    "train": "testbed.train_model",
    "train --dry-run": "testbed.train_model",
}
WITHOUT = {
    "compat": "it is about the models of libraries, not the user's own; a program reads `testbed compat --json`",
    "compat --dry-run": "it lists what `testbed compat` would check",
    "circuits --dry-run": "measure_circuits refuses the same before it measures, and writes nothing unless asked to",
    "classspace --dry-run": "measure_class_space refuses the same before it measures, and writes nothing unless asked to",
    "fault lens --dry-run": "examine_campaign refuses the same before it runs a model, and a sample of 1 is quick",
    "protect run --dry-run": "protect_model refuses the same before it measures, and writes nothing that fails its checks",
    "help": "Python has help(testbed) and help(testbed.run)",
    "campaign schema": "write_spec(..., schema=True) writes it beside the spec; alone it is for editors, not for Python",
}


def commands(command: click.Command, name: str = "") -> Iterator[str]:
    """Every command that does something by itself, and every dry run."""
    if not isinstance(command, click.Group):
        yield name
        if any("--dry-run" in option.opts for option in command.params):
            yield f"{name} --dry-run"
        return
    if command.invoke_without_command:
        yield name
    context = click.Context(command)
    for inner in command.list_commands(context):
        found = command.get_command(context, inner)
        assert found is not None
        yield from commands(found, f"{name} {inner}".strip())


def test_every_command_has_its_function_or_a_reason() -> None:
    known = {*commands(cli)}
    assert known - {*FUNCTIONS, *WITHOUT} == set()
    assert {name for name in {*FUNCTIONS, *WITHOUT} if "--validate" not in name} - known == set()


@pytest.mark.parametrize("path", sorted({*FUNCTIONS.values()}))
def test_the_function_is_public(path: str) -> None:
    module = "testbed.data" if path.startswith("testbed.data.") else "testbed"
    name, *rest = path.removeprefix(f"{module}.").split(".")
    found = getattr(importlib.import_module(module), name)
    assert name in importlib.import_module(module).__all__
    for attribute in rest:
        found = getattr(found, attribute)
    assert found.__doc__


def test_there_are_few_names() -> None:
    assert len(testbed.__all__) <= 44
