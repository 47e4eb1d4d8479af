"""``testbed doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.cli.tables.fitting import FittedTable
    from testbed.doctor.report import Diagnosis, Finding


@click.command(epilog=example("testbed doctor", "testbed doctor --json"))
@json_option
def doctor(as_json: bool) -> None:
    """Say which engines and kernels work here and, for each that does not, why and what to install.

    Engines are really asked: imported, and made to compute where they can. The exit status is 0 whatever is missing.
    """
    from testbed.doctor.report import diagnose

    diagnosis = diagnose()
    emit(diagnosis, as_json, lambda: _report(diagnosis))


def _report(diagnosis: Diagnosis) -> RenderableType:

    from testbed.cli.tables.prose import stacked

    host = diagnosis.host
    gpus = ", ".join(host.gpus) or f"none: {host.gpu_reason}"
    lines: list[RenderableType] = [
        f"Python {diagnosis.python.version}, {diagnosis.python.executable}",
        f"{host.platform}; {host.cpu}, {host.usable_cores} cores, {host.memory_gib} GiB",
        f"GPU: {gpus}",
    ]
    for title in ("engines", "kernels", "libraries"):
        lines += ["", _findings_table(title.capitalize(), getattr(diagnosis, title))]
    return stacked([*lines, "", "'pip' is that of the Python above."])


def _findings_table(title: str, findings: list[Finding]) -> FittedTable:
    from rich.text import Text

    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title=title, boxed=False)
    for heading in ("", "works", "version", "what is there, or why not", "to have it"):
        table.add_column(heading)
    for finding in findings:
        works = Text("yes", "green") if finding.available else Text("no", "yellow")
        texts = (finding.version or "-", finding.detail, finding.install or "")
        table.add_row(finding.name, works, *texts)
    return table
