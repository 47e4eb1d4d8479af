"""``testbed rank``: scores of a model's components, and whether a campaign bears them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Number
from testbed.cli.options.scores import ScoreOptionValues, score_options
from testbed.sensitivity.rank.catalogue import FACTS, METHODS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.cli.tables.fitting import FittedTable
    from testbed.sensitivity.circuits.components import ComponentKind
    from testbed.sensitivity.rank.ranking import CheckedRanking, RankedBy, Ranking
    from testbed.sensitivity.rank.verdict import CorrelationInterval

_HELP = f"""Score the blocks, heads or neurons of the model in DIR; with --validate, say whether a campaign bears it out.

Scores: {", ".join(f"{name} ({facts.summary})" for name, facts in FACTS.items())}, measured (SDC-1 rate of single flips).

--validate gives rank correlations with the true rates, with intervals, and with the rates as measured, which noise lowers; a
permuted control, p-values corrected for the number of scores (Holm), and how much SDC-1 would go if the parts that come first
were protected.
"""


@click.command(
    help=_HELP,
    epilog=example(
        "testbed rank runs/vit --by eap --of head",
        "testbed rank runs/vit --by measured --campaign runs/digits --of block",
        "testbed rank runs/vit --validate runs/digits --of block --picture rank.png",
        "testbed rank runs/vit --validate runs/digits --of head --json > validation.json",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--by", type=click.Choice([*METHODS, "measured"]), metavar="SCORE", help="Which of the scores above.")
@click.option(
    "--of",
    "kind",
    type=click.Choice(["block", "head", "chunk", "neuron"]),
    default="block",
    show_default=True,
    help="What is scored.",
)
@click.option("--campaign", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="For --by measured.")
@click.option(
    "--validate", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Hold the scores against it."
)
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw --validate: .png."
)
@click.option(
    "--tau", type=Number(), default=0.05, show_default=True, help="acdc: what is taken away for good, in nats."
)
@score_options
@json_option
def rank(
    folder: Path,
    by: RankedBy | None,
    kind: ComponentKind,
    campaign: Path | None,
    validate: Path | None,
    picture: Path | None,
    tau: float,
    settings: ScoreOptionValues,
    as_json: bool,
) -> None:
    """Score the components of a model, or hold their scores against a campaign."""
    from testbed.sensitivity.rank.ranking import check
    from testbed.sensitivity.rank.ranking import rank as ranked

    made = settings.made(tau=tau)
    if validate is None:
        if by is None:
            raise click.UsageError("name a score with --by, or a campaign with --validate")
        if picture is not None:
            raise click.UsageError("--picture needs --validate DIR")
        ranking = ranked(folder, by, kind, made, campaign)
        emit(ranking, as_json, lambda: _ranking(ranking))
        return
    if by == "measured":
        raise click.UsageError("--validate holds scores against what was measured; --by measured is no score")
    checked = check(folder, validate, kind, made, (by,) if by else METHODS)
    if picture is not None:
        from testbed.sensitivity.rank.pictures import validation_picture

        validation_picture(picture, checked)
    emit(checked, as_json, lambda: _validation(checked))


def _ranking(ranking: Ranking) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title=f"{ranking.kind}s by {ranking.by}, the first matter most")
    for name in ("rank", ranking.kind, "score"):
        table.add_column(name, justify="left" if name == ranking.kind else "right")
    for position, entry in enumerate(sorted(ranking.scores, key=lambda entry: -entry.score), 1):
        table.add_row(str(position), entry.component, f"{entry.score:.4g}")
    return table


def _validation(checked: CheckedRanking) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    level = f"{100 * checked.confidence:g} % intervals"
    table = FittedTable(title=f"scores of {checked.kind}s against {checked.campaign}, {level}")
    for name in (
        "score",
        "Spearman",
        "as measured",
        "Kendall",
        "top k",
        "k",
        "chance",
        "p, corrected",
        "SDC-1 removed, area",
    ):
        table.add_column(name, justify="left" if name == "score" else "right")
    areas = {order.by: order.area for order in checked.protection}
    for by, correlation in checked.by.items():
        cells = [
            _interval(correlation.spearman_true),
            "" if correlation.spearman.value is None else f"{correlation.spearman.value:.2f}",
            _interval(correlation.kendall_true),
            _interval(correlation.top_k_true),
            str(correlation.k),
        ]
        chance = "" if correlation.control is None else f"{100 * correlation.control:.1f} %"
        p = "" if correlation.p_adjusted is None else f"{correlation.p_adjusted:.2g}"
        table.add_row(by, *cells, chance, p, f"{areas[by]:.3f}" if by in areas else "")
    for curve, title in (("measured", "measured ideal"), ("random", "random order")):
        if curve in areas:
            table.add_row(title, "", "", "", "", "", "", "", f"{areas[curve]:.3f}")
    left_out = [f"{by} left out: {why}" for by, why in checked.left_out.items()]
    return stacked([table, *(correlation.verdict for correlation in checked.by.values()), *left_out])


def _interval(estimate: CorrelationInterval) -> str:
    if estimate.value is None:
        return "not defined"
    return f"{estimate.value:.2f}" + ("" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]")
