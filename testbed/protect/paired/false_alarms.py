"""Alarms without any fault: on the images of a campaign, and on those that the model was held against when it was protected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from testbed.analysis.stats import clopper_pearson
from testbed.campaign.files import Files
from testbed.campaign.gate_facts import GateFacts
from testbed.core.errors import TestbedError
from testbed.core.folder.forms import Form
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.protected import STAGE
from testbed.protect.paired.record import FalseAlarms
from testbed.protect.paired.sides import PairedSide

_ONE_SIDED = {"bound_95": 0.90, "bound_99": 0.98}  # two-sided levels, whose upper ends alone hold 95 and 99 %


class _Unchanged(Form):
    engine: str
    n: int
    false_alarms: int | None


class _Ensured(Form):
    unchanged: list[_Unchanged]


class _File(Form):
    sha256: str
    ensured: _Ensured


class _Facts(Form):
    files: list[_File]


def false_alarms_of(side: PairedSide) -> list[FalseAlarms]:
    """Those of the campaign's gate first, then, as far as the model's folder is still there and holds the file that was
    deployed, those on unseen images; none of a model whose passes raise no alarm."""
    return [*_of_campaign(side), *_of_model(side)]


def seconds_per_alarm(side: PairedSide) -> float | None:
    """Engine seconds of a second run, as the campaign's gates timed it; None where nothing is run again."""
    alarms = facts_of(side.folder, "gates", GateFacts).alarms
    return None if alarms is None else alarms.second_run_seconds


def _of_campaign(side: PairedSide) -> Iterator[FalseAlarms]:
    alarms = facts_of(side.folder, "gates", GateFacts).alarms
    if alarms is not None:
        yield FalseAlarms(
            source="campaign",
            engine=side.spec.engine.backend,
            images=alarms.images,
            alarms=alarms.alarms,
            bound_95=alarms.bound_95,
            bound_99=alarms.bound_99,
            seconds_bound_95=_times(alarms.bound_95, alarms.second_run_seconds),
        )


def _times(share: float, seconds: float | None) -> float | None:
    return None if seconds is None else share * seconds


def _of_model(side: PairedSide) -> Iterator[FalseAlarms]:
    seconds = seconds_per_alarm(side)
    deployed = side.folder.output_hash("export.model", Files("model").plain)
    for file in _recorded(side):
        if file.sha256 != deployed:
            continue
        for checked in file.ensured.unchanged:
            if checked.false_alarms is not None:
                alarms, n = checked.false_alarms, checked.n
                ends = {name: float(clopper_pearson(alarms, n, level).high) for name, level in _ONE_SIDED.items()}
                at_most = _times(ends["bound_95"], seconds)
                yield FalseAlarms(
                    source="protection",
                    engine=checked.engine,
                    images=n,
                    alarms=alarms,
                    seconds_bound_95=at_most,
                    **ends,
                )


def _recorded(side: PairedSide) -> list[_File]:
    """What the folder of the model says of its protected files; nothing where it is gone, or of another version."""
    run = side.spec.model.run
    if run is None or not Path(run).is_dir():
        return []
    try:
        return facts_of(RunFolder.existing(Path(run)), STAGE, _Facts).files
    except (TestbedError, ValidationError):
        return []
