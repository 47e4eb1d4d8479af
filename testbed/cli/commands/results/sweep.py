"""``testbed sweep``: what every tolerance would detect and alarm at, from a finished campaign's rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import LARGEST, Number, Whole

_MOST = 200  # points of a grid


class Tolerances(click.ParamType):
    """Tolerances separated by commas, or ``LOW:HIGH:COUNT``, as many of them, evenly on a logarithmic scale."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        text = str(value)
        try:
            tolerances = self._range(text) if ":" in text else tuple(float(part) for part in text.split(","))
        except ValueError:
            self.fail(f"{text!r} is no grid; write 1e-6,1e-5,1e-4 or LOW:HIGH:COUNT, such as 1e-8:1:17", param, ctx)
        if not all(0 <= tolerance <= LARGEST for tolerance in tolerances) or len(tolerances) > _MOST:
            self.fail(f"{text!r}: at most {_MOST} tolerances from 0 to {LARGEST:g} are wanted", param, ctx)
        return tuple(sorted(set(tolerances)))

    def _range(self, text: str) -> tuple[float, ...]:
        low, high, count = text.split(":")
        first, last, points = float(low), float(high), int(count)
        if not (0 < first < last < math.inf and 2 <= points <= _MOST):
            raise ValueError
        step = (math.log10(last) - math.log10(first)) / (points - 1)
        return tuple(float(f"{10 ** (math.log10(first) + n * step):.6g}") for n in range(points))


@click.command(
    epilog=example(
        "testbed sweep runs/digits",
        "testbed sweep runs/digits --atol 1e-7:1:15 --rtol 0,1e-5 --to grid.csv",
        "testbed sweep runs/digits --noise openvino,ort-cpu:fp16,ort-cpu@1,twin --noise-images 500",
        "testbed sweep runs/digits --full",
        "testbed sweep runs/digits --link --json > sweep.json",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--atol",
    type=Tolerances(),
    metavar="GRID",
    help="Absolute tolerances: 1e-6,1e-5 or LOW:HIGH:COUNT. Default: 1e-8 to 1, the campaign's, and the noise floors.",
)
@click.option(
    "--rtol",
    type=Tolerances(),
    metavar="GRID",
    help="Relative tolerances, of the spec's rtol_grid. Default: all of them.",
)
@click.option(
    "--detect",
    default=0.99,
    show_default=True,
    type=Number(1e-9, 1 - 1e-9),
    help="The detection rate wanted: the largest atol whose lower limit reaches it is told.",
)
@click.option(
    "--noise",
    metavar="ENGINES",
    help="Fault-free engines to measure: BACKEND[:PRECISION][@BATCH],... or twin. Default: this engine, its twin, batch"
    " 1, the other compiler, fp16, and what was measured before.",
)
@click.option(
    "--noise-images", type=Whole(1), metavar="N", help="Test images of each tier to measure them on, or more."
)
@click.option("--link", is_flag=True, help="Follow faults in the first attention module from its output to the logits.")
@click.option("--limit", type=Whole(1), metavar="N", help="Follow N faults: the first draws of every stratum.")
@click.option(
    "--exact", is_flag=True, help="Evaluate rows again, exactly, whose error bound straddles a tolerance of the grid."
)
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the grid: .csv or .parquet."
)
@click.option("--full", is_flag=True, help="Print each tier, and every tolerance of the grid.")
@json_option
def sweep(
    folder: Path,
    atol: tuple[float, ...] | None,
    rtol: tuple[float, ...] | None,
    detect: float,
    noise: str | None,
    noise_images: int | None,
    link: bool,
    limit: int | None,
    exact: bool,
    to: Path | None,
    full: bool,
    as_json: bool,
) -> None:
    """Tolerance against detection, for the finished campaign in DIR, per fault model and confidence tier.

    From the stored rows; no fault is run again. Fault-free engines (other compiler, precision, batch size) are measured
    once against the reference golden and kept in DIR: below their noise a tolerance raises false alarms. Everything is
    in --json, and stays in DIR/sweep.json.
    """
    from testbed.cli.progress import progress_on_stderr
    from testbed.compare.campaigns import check_table_name
    from testbed.core.errors import UsageError
    from testbed.sweep.run import SweepRequest, sweep_campaign, write_grid

    if limit is not None and not link:
        raise UsageError("--limit is of the faults that --link follows; give both")
    if to:
        check_table_name(to)
    names = None if noise is None else tuple(name.strip() for name in noise.split(",") if name.strip())
    request = SweepRequest(atol, rtol, detect, names, noise_images, link, limit, exact)
    swept = sweep_campaign(folder, request, progress_on_stderr)
    if to:
        write_grid(swept, to)

    from testbed.cli.tables.sweep import sweep_tables

    emit(swept.to_json(), as_json, lambda: sweep_tables(swept, full))
