"""``testbed import``: trained weights of another library become a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import emit, example, json_option, run_option
from testbed.core.errors import UsageError

if TYPE_CHECKING:
    from testbed.models.importers import ImportedModel
    from testbed.models.runs import DataSource


@click.command(
    "import",
    epilog=example("testbed import vit_cifar_d6.pth --run vit --data imagefolder:cifar10/test --preprocess cifar10"),
)
@click.argument("file", type=click.Path(path_type=Path))
@run_option()
@click.option(
    "--as",
    "layout",
    metavar="LAYOUT",
    help="vit-pytorch (older or current), timm, torchvision or huggingface; by default recognised from the keys.",
)
@click.option("--heads", type=int, metavar="N", help="Attention heads per block, which weights do not tell.")
@click.option(
    "--pooling",
    type=click.Choice(["cls", "mean", "mean_patches"]),
    help="What the head reads: CLS, the mean of all tokens, or the mean without CLS.",
)
@click.option("--norm-eps", type=float, metavar="X", help="LayerNorm's epsilon, if not the layout's own.")
@click.option("--data", metavar="NAME", help="The data set the model is for; see 'testbed data list'.")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The data folder.")
@click.option(
    "--preprocess", metavar="NAME", help="How the images are normalised, if not as is usual for the data set."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the data set's splits.")
@json_option
def import_(
    file: Path,
    run: Path,
    layout: str | None,
    heads: int | None,
    pooling: Any,
    norm_eps: float | None,
    data: str | None,
    root: Path | None,
    preprocess: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Read the trained weights in FILE (.pth or .safetensors) into a run folder.

    Layout and architecture are read from the keys and shapes; a missing, extra or misshapen key is an error, and
    nothing in the file is executed. What shapes do not tell (heads, pooling, LayerNorm's epsilon) is taken as is usual
    for the layout, and said. With --data, classes and channels must agree with the data set's.
    """
    from testbed.core.files import sha256_file
    from testbed.models.importers import import_weights
    from testbed.models.runs import MODEL, write_model_run

    source, fit = _data(data, root, preprocess, seed)
    imported = import_weights(file, layout, heads=heads, pooling=pooling, norm_eps=norm_eps, **fit)
    parameters = sum(p.numel() for p in imported.model.parameters())
    facts = {"layout": imported.layout, "parameters": parameters, "assumed": list(imported.assumed)}
    config = imported.config.to_dict()
    made_from = {"file_sha256": sha256_file(file), "layout": imported.layout, "config": config}
    write_model_run(run, imported.model, stage="import", name=file.name, made_from=made_from, data=source, facts=facts)
    report = {"run": run, "model": run / MODEL, **facts, "config": config, "data": source}
    emit(report, as_json, lambda: _text(file, run, imported, parameters, source))


def _data(
    name: str | None, root: Path | None, preprocess: str | None, seed: int
) -> tuple[DataSource | None, dict[str, int]]:
    """The data set's record, and what the model must have for it."""
    if name is None:
        if root or preprocess:
            raise UsageError("--root and --preprocess belong to a data set; name it with --data NAME")
        return None, {}
    from testbed.data.preprocess_stated import kept
    from testbed.data.registry import load
    from testbed.models.runs import DataSource

    dataset = load(name, root=root, preprocess=preprocess, seed=seed)
    source = DataSource(name, None if root is None else str(root), kept(preprocess), seed)
    return source, {"classes": len(dataset.classes), "channels": dataset.channels}


def _text(file: Path, run: Path, imported: ImportedModel, parameters: int, source: DataSource | None) -> str:
    c = imported.config
    lines = [
        f"{file.name}: {imported.layout}, {parameters:,} parameters",
        f"  images {c.channels} x {c.image} x {c.image}, patches of {c.patch}, width {c.width}, {c.depth} blocks,"
        f" heads {_each(c.heads)} of {c.head_width}, mlp {_each(c.mlp)}, {c.classes} classes",
    ]
    if imported.assumed:
        lines.append(f"  not told by the file, taken as usual: {'; '.join(imported.assumed)}")
    lines.append(f"  data: {source.name if source else 'none named'}")
    lines.append(f"written to {run}" + (f"; next: testbed golden {run}" if source else ""))
    return "\n".join(lines)


def _each(counts: tuple[int, ...]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else " ".join(map(str, counts))
