"""``testbed export``: a deployable engine of a run folder's model, and its parity with the golden."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.commands.golden.record import batch_option
from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Number, Threads, Whole
from testbed.cli.options.types import EngineOption
from testbed.core.errors import GateFailed, UsageError
from testbed.core.formats import PRECISIONS
from testbed.core.words.bounds import at_least

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.golden.deploy import Deployed


@click.command(
    epilog=example(
        "testbed export runs/vit --target model --precision fp16",
        "testbed export runs/vit --target attention --precision int8 --calibration-images 512 --json",
        "testbed export runs/vit --target block:3 --engine openvino --atol 1e-4",
        "testbed export vit.onnx --target attention:1",
    )
)
@click.argument("folder", metavar="DIR|FILE.onnx", type=click.Path(path_type=Path))
@click.option("--target", default="model", show_default=True, help="model, attention, attention:N or block:N.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="The file to write: ONNX, or a TensorRT engine of this GPU.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Number format of the file.",
)
@click.option(
    "--engine",
    type=EngineOption(),
    default="ort-cpu",
    show_default=True,
    help="What runs the parity check on an ONNX file.",
)
@click.option("--atol", type=Number(0), help="Refuse (exit 3) if any image needs a larger one; without, only report.")
@click.option("--rtol", type=Number(0), default=1e-5, show_default=True, help="Tolerance relative to the golden value.")
@click.option("--calibration-images", type=Whole(1), default=256, show_default=True, help="For int8.")
@click.option("--calibration-method", default="MinMax", show_default=True, help="MinMax, Entropy or Percentile.")
@click.option("--calibration-data", metavar="NAME", help="Data set with the training images, where DIR's has none.")
@click.option(
    "--image-size",
    metavar="N",
    type=Whole(1, 8192),
    help="Height and width of FILE.onnx's images, where it leaves them open and its weights do not say them.",
)
@batch_option
@click.option("--threads", type=Threads(), default=1, show_default=True, help="Of the engine.")
@json_option
def export(
    folder: Path,
    target: str,
    format_name: str,
    precision: str,
    engine: str,
    atol: float | None,
    rtol: float,
    calibration_images: int,
    calibration_method: str,
    calibration_data: str | None,
    image_size: int | None,
    batch: int,
    threads: int,
    as_json: bool,
) -> None:
    """Write the plain engine file of a target of the model in DIR, and report its parity with the reference golden.

    Precision is decided in the ONNX graph: fp16 and bf16 by casts, int8 by static quantisation on training images. Run
    `testbed golden DIR` before. TensorRT engines are built from the same file.

    Of an ONNX file of any origin, one attention module is cut out and written beside it; parity is that with the whole
    file's engine, on random images.
    """
    from testbed.cli.progress import log_to_stderr, progress_on_stderr
    from testbed.export.parity import needed_atol
    from testbed.export.precision import Calibration
    from testbed.golden.deploy import deploy, deploy_module

    log_to_stderr()
    options: dict[str, Any] = {
        "engine": "tensorrt" if format_name == "tensorrt" else engine,
        "rtol": rtol,
        "batch": batch,
        "threads": threads,
        "progress": lambda total: progress_on_stderr(total, "images"),
    }
    if folder.is_file():
        deployed, against = deploy_module(folder, target, precision, image_size=image_size, **options), "whole file"
    else:
        if image_size is not None:
            raise UsageError(f"--image-size is of an ONNX file; the model in {folder} says its own: leave it out")
        calibration = Calibration(calibration_images, calibration_method, calibration_data or "train")
        deployed, against = deploy(folder, target, precision, calibration=calibration, **options), "reference golden"
    emit(deployed, as_json, lambda: _parity_text(deployed, against))
    needed = needed_atol(deployed.parity)
    if atol is not None and not needed <= atol:
        raise GateFailed(
            f"{target} in {precision} needs atol {at_least(needed)} at rtol {rtol:g}, above the stated {atol:g}"
        )


def _parity_text(deployed: Deployed, against: str) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    kind = f" ({deployed.options['arithmetic']})" if "arithmetic" in deployed.options else ""
    table = FittedTable(title=f"parity with the {against}, {deployed.images} images, rtol {deployed.rtol:g}")
    for name in ("tier", "n", "largest |d|", "smallest atol", "top-1 agreement"):
        table.add_column(name, justify="left" if name == "tier" else "right")
    for tier in deployed.parity:
        figures = (tier.max_abs_diff, tier.smallest_atol)
        agreement = "" if tier.top1_agreement is None else f"{100 * tier.top1_agreement:.2f} %"
        cells = ["" if figure is None else f"{figure:.3g}" for figure in figures]
        table.add_row(tier.tier, str(tier.n), *cells, agreement)
    head = (
        f"{deployed.file}: {deployed.engine} {deployed.precision}{kind}, engine {deployed.engine_hash}, model"
        f" {deployed.deployment_id}"
    )
    return stacked([head, table])
