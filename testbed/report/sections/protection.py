"""What a protected engine's own checks saw, and what followed: the summary's shares as a table."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.campaign.summary.protection import CheckedModel, CheckedShare, ProtectionRecord
from testbed.core.words.bounds import percent_at_least
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import count, duration, model_name, rate
from testbed.report.read.evidence import Evidence
from testbed.report.sections.swept import Table

_PLACES = {"activation": "activations", "weight": "weights"}
_AGAIN = {
    "none": "Nothing is run again after an alarm.",
    "rerun": "After an alarm the image was run again, the weights as they were.",
    "reload": "After an alarm the weights were restored, and the image was run again.",
}
_NOT_ASKED = "no such row"


@dataclass(frozen=True)
class Protection:
    """``false_alarms``, ``policy``: in a sentence. ``seconds``: per fault model, what second runs come to."""

    false_alarms: str
    policy: str
    table: Table
    seconds: tuple[str, ...]


def protection(evidence: Evidence) -> Protection | None:
    """None for an engine without checks of its own."""
    record = evidence.summary.protection
    if record is None or record.false_alarms is None:
        return None
    return Protection(
        false_alarms_text(record), _AGAIN.get(record.on_detected, ""), _table(record), tuple(second_run_lines(record))
    )


def false_alarms_text(record: ProtectionRecord) -> str:
    """What is known of alarms without a fault."""
    alarms = record.false_alarms
    assert alarms is not None
    return (
        f"{count(alarms.alarms)} alarms without a fault on {count(alarms.images)} images: for images that are chosen as"
        f" these were, at most {percent_at_least(alarms.bound_95)} % (one-sided, 95 %)"
    )


def checked_cells(model: CheckedModel) -> tuple[str, ...]:
    """Alarms, and the shares that `CHECKED_COLUMNS` names."""
    shares = (model.sdc1, model.outside, model.inside, model.recovered)
    return (count(model.detected), *map(_share_text, shares))


CHECKED_COLUMNS = ("alarms", "of another top-1", "of outputs outside tolerance", "of outputs inside it", "recovered")


def checked_name(model: CheckedModel) -> str:
    return f"{model.target}, {_PLACES[model.where]}, {model_name(model.op)}"


def second_run_lines(record: ProtectionRecord) -> list[str]:
    """The expected time of second runs, a line for each fault model with any alarm."""
    timed = [(model, model.second_run_seconds) for model in record.models]
    return [f"{checked_name(model)}: {duration(seconds)} per faulty inference" for model, seconds in timed if seconds]


def _table(record: ProtectionRecord) -> Table:
    rows = tuple((checked_name(model), *checked_cells(model)) for model in record.models)
    notes = tuple(_note(model) for model in record.models)
    return Table("protection-checks", "What the checks saw", ("", *CHECKED_COLUMNS), rows, notes)


def _share_text(share: CheckedShare | None) -> str:
    return _NOT_ASKED if share is None else rate(_estimate(share))


def _estimate(share: CheckedShare) -> RateEstimate:
    return RateEstimate(share.rate, share.low, share.high, share.faults, share.rows)


def _note(model: CheckedModel) -> str:
    if model.sdc1 is None:
        return ""
    return (
        f"of {count(model.sdc1.rows)} rows with another top-1, at least {_floor(model.sdc1.low_95)} % had an alarm (one-sided,"
        f" 95 %), at least {_floor(model.sdc1.low_99)} % (99 %)"
    )


def _floor(share: float) -> str:
    """A lower bound in percent, never overstated."""
    return f"{int(1000 * share) / 10:g}"
