"""The scores that rank components: the only list of them, free of heavy imports.

The command line's choices and help, the API's types, what a score refuses, the settings that its manifest names and the
methods of pruning all come from here; ``methods/table.py`` has the function of each.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

ScoreMethod = Literal[
    "acdc", "eap", "eap-ig", "fuzziness", "identifiability", "attention-distance", "gradient", "magnitude", "attnlrp"
]
PruneMethod = Literal["acdc", "eap", "eap-ig", "identifiability", "gradient", "magnitude", "attnlrp"]
METHODS: tuple[ScoreMethod, ...] = get_args(ScoreMethod)
PRUNE_METHODS: tuple[PruneMethod, ...] = get_args(PruneMethod)

_EVERY_KIND = ("block", "head", "chunk", "neuron")


@dataclass(frozen=True)
class ScoreFacts:
    """What a score is. summary: a few words for help and documentation; kinds: of components that it scores; scope: the
    refusal's reason where that is not every kind; settings: those that it rests on beside images, seed and chunks."""

    summary: str
    kinds: tuple[str, ...] = _EVERY_KIND
    scope: str = ""
    settings: tuple[str, ...] = ()

    def check_kind(self, kinds: Collection[str]) -> None:
        """Raises UsageError for a kind of component that has no such score."""
        for kind in kinds:
            if kind not in self.kinds:
                raise UsageError(f"{self.scope}, not each {kind}")


FACTS: dict[ScoreMethod, ScoreFacts] = {
    "acdc": ScoreFacts("divergence when a part goes", settings=("tau", "rule", "ablation")),
    "eap": ScoreFacts("attribution to its edges", settings=("loss", "corrupt", "snr_db")),
    "eap-ig": ScoreFacts("the same, averaged over a path", settings=("loss", "corrupt", "snr_db", "steps")),
    "fuzziness": ScoreFacts(
        "separation gained in a block", kinds=("block",), scope="fuzziness is of layers: it scores blocks"
    ),
    "identifiability": ScoreFacts("by how much a part lifts the true class in class space"),
    "attention-distance": ScoreFacts(
        "how far a head looks",
        kinds=("block", "head"),
        scope="attention distance is of heads: it scores heads and blocks",
    ),
    "gradient": ScoreFacts("gradient times value of a part's output"),
    "magnitude": ScoreFacts("size of a part's output beside the residual stream"),
    "attnlrp": ScoreFacts("relevance that passes through a part"),
}


def check_method(method: str, known: Collection[str] = METHODS) -> None:
    """Raises UsageError for a method that is not one of these."""
    if method not in known:
        raise UsageError(unknown("method", method, known))
