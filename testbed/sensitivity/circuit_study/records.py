"""What a study of circuits found, as records: curves with their areas, edges, and all together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from testbed.sensitivity.rank.settings import SettingValues

CircuitMethod = Literal["acdc", "eap", "eap-ig"]
RANDOM = "random"


@dataclass(frozen=True)
class BootstrapInterval:
    """A value with its percentile interval over resampled images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FaithfulnessPoint:
    """Faithfulness of the circuit of the first ``size`` components. share: of all components; metric: the task metric,
    its mean over images; low, high: of the faithfulness."""

    size: int
    share: float
    metric: float
    faithfulness: float
    low: float
    high: float


@dataclass(frozen=True)
class CircuitCurve:
    """Nested circuits in the order of one score. cpr, cmd: the areas; the random order's are means over orders.

    cpr_gain: CPR less a random order's; cmd_gain: a random order's CMD less this one, so that more is better in both.
    random_as_good: share of the random orders whose CPR is at least this one's. All three None for the random order.
    """

    by: str
    points: tuple[FaithfulnessPoint, ...]
    cpr: BootstrapInterval
    cmd: BootstrapInterval
    cpr_gain: BootstrapInterval | None = None
    cmd_gain: BootstrapInterval | None = None
    random_as_good: float | None = None

    @property
    def verdict(self) -> str:
        """A sentence made from the interval of the gain, never from the estimate alone."""
        if self.cpr_gain is None or self.cmd_gain is None:
            return ""
        gains = {"CPR": self.cpr_gain, "CMD": self.cmd_gain}
        better = [name for name, gain in gains.items() if gain.low > 0]
        worse = [name for name, gain in gains.items() if gain.high < 0]
        clauses = [f"better than a random order by {' and '.join(better)}"] * bool(better)
        clauses += [f"worse than a random order by {' and '.join(worse)}"] * bool(worse)
        return f"{self.by} is {', '.join(clauses) or 'not shown to be better than a random order'}."


@dataclass(frozen=True)
class EdgeScore:
    """What the loss would change by if ``reader`` read a corrupt ``source``, to first order."""

    by: CircuitMethod
    source: str
    reader: str
    score: float


@dataclass(frozen=True)
class CircuitStudy:
    """What was measured, and the files that were written.

    scores: method -> component -> score, in the order of the forward pass; edges: of every EAP method, the largest first;
    images: test images that circuits were measured on; curves: the random order last.
    """

    run: str
    data: str
    kinds: tuple[str, ...]
    components: int
    images: int
    metric: str
    confidence: float
    settings: SettingValues
    scores: dict[CircuitMethod, dict[str, float]]
    curves: tuple[CircuitCurve, ...] = ()
    edges: tuple[EdgeScore, ...] = ()
    files: tuple[Path, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: what --json prints and circuits.json holds (that one without ``files``)."""
        record = asdict(self) | {"files": [str(path) for path in self.files]}
        record["curves"] = [asdict(curve) | {"verdict": curve.verdict or None} for curve in self.curves]
        return record
