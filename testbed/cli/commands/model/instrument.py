"""``testbed instrument``: fault ports for an ONNX file of whatever origin, and the list of its sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.instrument.twin import TwinFiles


@click.command(
    epilog=example(
        "testbed instrument vit.onnx",
        "testbed instrument vit.onnx --sites 'block.0.*' --sites '!*.softmax' --to twins",
        "testbed instrument vit.onnx --sites all --json > sites.json",
    )
)
@click.argument("file", metavar="FILE.onnx", type=click.Path(path_type=Path))
@click.option(
    "--sites",
    metavar="SELECTOR",
    multiple=True,
    help="Shell pattern of site names; may be given several times; '!PATTERN' leaves sites out. 'all': every tensor,"
    " recognised or not. Without it: every recognised site.",
)
@click.option(
    "--ports",
    type=click.Choice(["gated_replace", "xor", "op"]),
    default="gated_replace",
    show_default=True,
    help="How elements are struck: in portable operators, by bit operators (opset 26), by a custom operator.",
)
@click.option(
    "--to", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Beside FILE.onnx unless said."
)
@click.option(
    "--image-size",
    metavar="N",
    type=Whole(1, 8192),
    help="Height and width of the images, where FILE leaves them open and its weights do not say them.",
)
@click.option(
    "--output",
    metavar="NAME",
    help="The one output to keep of several, as [model] output of a campaign's spec; all unless said.",
)
@json_option
def instrument(
    file: Path,
    sites: Sequence[str],
    ports: str,
    to: Path | None,
    image_size: int | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Give FILE.onnx a fault port at each site: writes NAME.twin.onnx and NAME.sites.json.

    FILE.onnx is an export of this project, or any other ONNX file of a Vision Transformer (timm, Hugging Face,
    torchvision, ...): its sites are found by the graph's pattern and get human names, all other tensors keep their own.
    """
    from testbed.instrument.twin import make_twin

    made = make_twin(file, to or file.parent, sites or ("*",), ports, image_size, output)
    emit(made, as_json, lambda: _sites_table(made))


def _sites_table(made: TwinFiles) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    table = FittedTable(title=f"sites of {made.file}")
    for name in ("site", "place", "kind", "shape", "format", "tensor"):
        table.add_column(name)
    for site in made.sites:
        shape = " x ".join(map(str, site.shape)) or "1"
        kind = site.kind if site.recognised else "not recognised"
        table.add_row(site.name, site.where, kind, shape, site.format, site.tensor)
    activations = sum(site.where == "activation" for site in made.sites)
    lines = [f"{activations} activations and {len(made.sites) - activations} weights; {made.ports} ports"]
    lines += [f"note: {change}" for change in made.changes]
    lines += [f"not there: {missing.site}, {missing.why}" for missing in made.missing]
    lines += [
        f"shared: {shared.tensor} is {', '.join(shared.uses[:4])}{', ...' if len(shared.uses) > 4 else ''}"
        for shared in made.shared
    ]
    lines += [made.plain, made.twin, made.table]
    return stacked([table, *lines])
