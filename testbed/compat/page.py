"""The support matrix as a page of the documentation, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testbed.compat.record import CHECKS, ArchitectureResult, Matrix
from testbed.core.folder.files import write_text

MEANINGS = {
    "instrument": "The file is taken as it is, its sites are listed, its [twin](../glossary.md#twin) runs.",
    "sites": "Of every block, q, k, v, scores, softmax, context, projection, both layers of the MLP, its activation, norms"
    " and residuals have their names, and blocks the model's own numbers.",
    "twin": "Without a fault, the twin gives the plain file's very bits (graph optimisations off); as deployed, it is within"
    " the [drift](../glossary.md#drift) bound.",
    "zero_fault": "All gates of a campaign hold; rows of a fault that changes nothing are golden, bit for bit.",
    "flips": "One flip per kind of site, in the first block and the last, gives the same bits as the plain graph edited by"
    " hand, and the logits of the library's own model with the same value corrupted in PyTorch.",
    "suffix": "Replaying only what a fault can change gives the whole twin's bits, so that a campaign does.",
    "weights": "Every block's weights have names, all can be changed in the running engine, and one flip per kind gives the"
    " logits of the library's own model with that parameter corrupted.",
}
_MARKUP = {ord(character): f"&#{ord(character)};" for character in "\\`*_<>[]|#~&"}
_SIGNS = {True: "yes", False: "**no**", None: "-"}


def write_page(matrix: Matrix, file: Path) -> None:
    """Writes the page. Raises OSError."""
    write_text(file, "\n".join(_page(matrix)) + "\n")


def share(matrix: Matrix) -> str:
    """How many cells are true: "312 of 330 cells (94.5 %)"."""
    cells = matrix.cells
    return f"{sum(cells)} of {len(cells)} cells" + (f" ({100 * sum(cells) / len(cells):.1f} %)" if cells else "")


def _page(matrix: Matrix) -> Iterator[str]:
    models = {model.name for model in matrix.models}
    yield "# Which models work\n"
    yield (
        "Made by `testbed compat --to docs/reference/compat.md`, which builds each model small and with random weights,"
        f" exports it, and checks it: {len(models)} architectures, {len(matrix.models)} files, {share(matrix)} hold. With"
        f" {', '.join(f'{library} {number}' for library, number in matrix.versions.items())}.\n"
    )
    yield "| check | what holds |\n|---|---|"
    yield from (f"| {_heading(check)} | {MEANINGS[check]} |" for check in CHECKS)
    yield "\nA dash: there is nothing to check, as where the library's model cannot be exported in that way.\n"
    for library in dict.fromkeys(model.library for model in matrix.models):
        yield f"## {library}\n"
        yield f"| family | model | exporter | {' | '.join(map(_heading, CHECKS))} |"
        yield f"|---|---|---|{'---|' * len(CHECKS)}"
        yield from (_row(model) for model in matrix.models if model.library == library)
        yield ""
    reasons = [model for model in matrix.models if model.reason]
    if reasons:
        yield "## What does not hold, and why\n"
        yield from (f"- `{model.name}`, {model.exporter}: {_prose(model.reason)}" for model in reasons)
        yield ""
    noted = {model.name: model.absent for model in matrix.models if model.absent}
    if noted:
        yield "## What a structure has no tensor for\n"
        yield from (f"- `{name}`: {_prose('; '.join(notes))}" for name, notes in noted.items())


def _row(model: ArchitectureResult) -> str:
    cells = [_SIGNS[model.verdicts[check].holds] for check in CHECKS]
    return f"| {model.family} | `{model.name.partition('/')[2]}` | {model.exporter} | {' | '.join(cells)} |"


def _heading(check: str) -> str:
    return check.replace("_", "-")


def _prose(text: str) -> str:
    """Text in which no character is markup."""
    return text.translate(_MARKUP)
