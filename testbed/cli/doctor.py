"""``testbed doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from testbed.engines.doctor import Diagnosis, Finding


@click.command(epilog=example("testbed doctor", "testbed doctor --json"))
@json_option
def doctor(as_json: bool) -> None:
    """Say which engines and kernels work here and, for each that does not, why and what to install.

    Engines are really asked: imported, and made to compute where they can. The exit status is 0 whatever is missing.
    """
    from testbed.engines.doctor import diagnose

    diagnosis = diagnose()
    emit(diagnosis, as_json, lambda: _report(diagnosis))


def _report(diagnosis: Diagnosis) -> Group:
    from rich.console import Group

    host = diagnosis.host
    gpus = ", ".join(host["gpus"]) or f"none: {host['gpu_reason']}"
    lines = [
        f"Python {diagnosis.python['version']}, {diagnosis.python['executable']}",
        f"{host['platform']}; {host['cpu']}, {host['usable_cores']} cores, {host['memory_gib']} GiB",
        f"GPU: {gpus}",
    ]
    tables = [
        _table("Engines", diagnosis.engines),
        _table("Kernels", diagnosis.kernels),
        _table("Libraries", diagnosis.libraries),
    ]
    return Group(*lines, *tables, "'pip' is that of the Python above.")


def _table(title: str, findings: list[Finding]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "works", "version", "what is there, or why not", "to have it"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        works = Text("yes", style="green") if finding.available else Text("no", style="yellow")
        table.add_row(finding.name, works, finding.version or "-", finding.detail, finding.install or "")
    return table
