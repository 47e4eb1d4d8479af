"""``testbed prune``: a smaller model in a run folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.cli.options.numbers import Whole
from testbed.cli.options.scores import ScoreOptionValues, score_options
from testbed.cli.options.types import GridOption
from testbed.sensitivity.rank.catalogue import PRUNE_METHODS

if TYPE_CHECKING:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.prune.run import Pruned
    from testbed.sensitivity.rank.catalogue import PruneMethod


@click.command(
    epilog=example(
        "testbed prune runs/vit --method acdc --tau .05 --to runs/vit-small",
        "testbed prune runs/vit --method eap --keep .9,.8,.7,.6,.5 --to runs/pruned",
        "testbed prune runs/vit --method eap --keep .5 --finetune 5 --to runs/half --json",
    )
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--method", type=click.Choice(PRUNE_METHODS), required=True, help="The score that components are chosen by."
)
@click.option(
    "--tau", type=GridOption(), help="acdc: by how much the divergence may rise per component, in nats; a,b,c: a sweep."
)
@click.option("--keep", type=GridOption(), help="Others: share of the components that stays; a,b,c: a sweep.")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="New run folder; of a sweep, the folder of the run folders.",
)
@click.option(
    "--components", "kinds", default="head,chunk", show_default=True, help="What may go: head, chunk, neuron, block."
)
@click.option(
    "--finetune",
    type=Whole(1),
    metavar="EPOCHS",
    help="Train what is left; without, weights are cut and that is all.",
)
@click.option("--finetune-recipe", default="finetune", show_default=True, help="How to fine-tune.")
@score_options
@json_option
def prune(
    folder: Path,
    method: PruneMethod,
    tau: tuple[float, ...] | None,
    keep: tuple[float, ...] | None,
    to: Path,
    kinds: str,
    finetune: int | None,
    finetune_recipe: str,
    settings: ScoreOptionValues,
    as_json: bool,
) -> None:
    """Cut heads and MLP neurons out of the model in DIR, and write what is left as a model like any other.

    Weights and biases are cut, blocks may become unequal or empty; the result equals the original with those parts masked
    to 1e-5. It exports, compiles, gets goldens, tiers and campaigns. Scores are measured on validation images.
    """
    from testbed.prune.run import PruneRequest, prune_runs
    from testbed.train import recipe

    amounts = tau if method == "acdc" else keep
    if amounts is None or (keep if method == "acdc" else tau) is not None:
        raise click.UsageError(f"--method {method} takes {'--tau' if method == 'acdc' else '--keep'}, and only that")
    training = recipe(finetune_recipe, epochs=finetune) if finetune else None
    chosen = tuple(kinds.split(","))
    orders = [PruneRequest(method, amount, chosen, settings.made(), training) for amount in amounts]
    places = [to] if len(orders) == 1 else [to / order.name for order in orders]
    pruned = prune_runs(folder, list(zip(orders, places, strict=True)), say)
    emit(pruned[0] if len(pruned) == 1 else {"runs": pruned}, as_json, lambda: _pruned_table(pruned))


def _pruned_table(pruned: list[Pruned]) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title=f"pruned from {100 * pruned[0].accuracy_before:.2f} % test accuracy")
    for name in ("run", "amount", "heads", "neurons", "parameters", "MACs", "of the MACs", "accuracy %"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for model in pruned:
        heads = sum(map(len, model.kept.heads))
        neurons = sum(_counted(runs) for runs in model.kept.neurons)
        tuned = f" (before fine-tuning {100 * model.accuracy_before_finetuning:.2f})" if model.finetuned_epochs else ""
        table.add_row(
            model.run,
            f"{model.amount:g}",
            f"{heads} of {sum(model.kept.of_heads)}",
            f"{neurons} of {sum(model.kept.of_neurons)}",
            f"{model.parameters:,}",
            f"{model.macs / 1e6:.4g} M",
            f"{model.macs / model.macs_before:.3f}",
            f"{100 * model.accuracy:.2f}{tuned}",
        )
    return table


def _counted(runs: str) -> int:
    ends = [tuple(map(int, run.split("-"))) for run in runs.split(",") if run]
    return sum(last - first + 1 for first, last in ends)
