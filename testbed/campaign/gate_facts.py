"""What the gates of a campaign report of themselves in the manifest."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from testbed.campaign.cache_note import CacheNote
from testbed.campaign.proofs import WHOLE, EvaluatedBy, Proof
from testbed.core.folder.forms import Form
from testbed.core.site import Where

_Count = Annotated[int, Field(ge=0, le=10**15)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class ParityFacts(Form):
    """How far two engines' outputs differ, and how far they may. ``top1_agreement``: None where there are no classes."""

    target: str
    pair: str
    max_abs_diff: _NonNegativeFloat
    top1_agreement: _Share | None
    bound: _NonNegativeFloat


class DriftFacts(Form):
    max_abs_diff: _NonNegativeFloat
    bound: _NonNegativeFloat


class RowsFacts(Form):
    """``why``: why the rows of a batch influence each other; empty where nothing shows that they do."""

    why: str


class ZeroFaultFacts(Form):
    rows: _Count
    mismatches: _Count


class AlarmFacts(Form):
    """Named images on which an engine's own checks raised an alarm without any fault: a campaign has none. ``bound_95``,
    ``bound_99``: one-sided upper bounds of that share, for images that are chosen as these were. ``second_run_seconds``:
    what a second run takes per image on the plain engine, by protection.on_detected, with the engine built anew where its
    weights are reloaded; None where nothing is run again."""

    images: _Count
    alarms: _Count
    bound_95: _Share
    bound_99: _Share
    second_run_seconds: _NonNegativeFloat | None = None


class LeftOut(Form):
    """A tensor that is not struck, and why."""

    target: str = Field("", description="`model` or `attention`")
    site: str = Field(description="the tensor")
    reason: str = Field(description="why it is left out")


class WeightGate(Form):
    """Which weights may be struck in place. ``compared``: tensors of which a fault in place was compared with a rebuilt
    engine; none where a rebuilt one gives other bits without any fault."""

    tensors: _Count = 0
    compared: _Count = 0
    left_out: list[LeftOut]

    def by_reason(self) -> dict[str, list[str]]:
        """Names of the sites left out, by why they are."""
        names: dict[str, list[str]] = {}
        for left_out in self.left_out:
            names.setdefault(left_out.reason, []).append(left_out.site)
        return names


class EvaluationFacts(Form):
    """A `Proof`, without the target and the place that it is of."""

    by: EvaluatedBy
    why: str | None = None
    record: dict[str, JsonValue] = Field(default_factory=dict)


class GateFacts(Form):
    """``passes``: of a protected file, as its metadata has them. ``alarms``: of one that checks itself. ``cache``: gates that
    were not run but taken from there, and from when they are."""

    parity: list[ParityFacts]
    drift: DriftFacts
    zero_fault: ZeroFaultFacts
    passes: JsonValue = None
    alarms: AlarmFacts | None = None
    weights: dict[str, WeightGate] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    goldens: dict[str, str]
    evaluation: dict[str, EvaluationFacts]
    cache: dict[str, CacheNote] = Field(default_factory=dict)

    def proof(self, target: str, where: Where) -> Proof:
        """Return the proof for faults in the target's activations or weights."""
        whole = Proof(target, where, WHOLE)
        facts = self.evaluation.get(whole.key)
        return whole if facts is None else Proof(target, where, facts.by, facts.why, facts.record)

    def left_out(self, target: str) -> dict[str, str]:
        """Weights that cannot be struck rightly, and why."""
        gate = self.weights.get(target)
        return {} if gate is None else {left_out.site: left_out.reason for left_out in gate.left_out}
