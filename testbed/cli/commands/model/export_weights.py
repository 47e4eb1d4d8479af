"""``testbed export-weights``: a run's model as a file for vit-pytorch or for the original workflow."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option


@click.command(
    "export-weights",
    epilog=example(
        "testbed export-weights vit --to vit_tiny_cifar10.pth",
        "testbed export-weights vit --to tiny_part_att.pth --part attention",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--to",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What to write.",
)
@click.option(
    "--part",
    type=click.Choice(["model", "attention"]),
    default="model",
    show_default=True,
    help="The whole model, or the first attention alone (to_qkv, to_out).",
)
@json_option
def export_weights(folder: Path, file: Path, part: str, as_json: bool) -> None:
    """Write the model of run folder DIR under vit-pytorch's names, bit for bit.

    FILE is safetensors if it is called so, else for torch.load. The older layout is written, or the current one for
    models with LayerNorms around the patch projection. Models that vit-pytorch does not have are refused.
    """
    from testbed.core.folder.files import sha256_file
    from testbed.models.importers import save_vit_pytorch
    from testbed.models.originals import write_attention_weights
    from testbed.models.runs import open_model_run

    model = open_model_run(folder).model
    if part == "attention":
        write_attention_weights(file, model)
    else:
        save_vit_pytorch(file, model)
    report = {"file": file, "part": part, "sha256": sha256_file(file)}
    emit(report, as_json, lambda: f"{part} of {folder} written to {file}")
