"""Alarms without any fault: on the images of a campaign, and on those that the model was held against when it was protected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pydantic import Field, ValidationError

from testbed.campaign.files import TIERS, Files
from testbed.campaign.folder.images import read_tiers
from testbed.campaign.gate_facts import GateFacts
from testbed.core.errors import TestbedError
from testbed.core.folder.forms import Form
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.protected import STAGE
from testbed.protect.paired.record import FalseAlarms, TierFalseAlarms
from testbed.protect.paired.sides import PairedSide
from testbed.protect.tier_alarms import OneSidedBounds


class _TierAlarms(Form):
    low: float | None
    high: float | None
    images: int
    alarms: int
    bound_95: float
    bound_99: float


class _Unchanged(Form):
    engine: str
    n: int
    false_alarms: int | None
    alarms_by_tier: list[_TierAlarms] = Field(default_factory=list)


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
            by_tier=_silent_tiers(side) if not alarms.alarms else [],
        )


def _silent_tiers(side: PairedSide) -> list[TierFalseAlarms]:
    """The tiers of a campaign none of whose images raised an alarm."""
    tiers = read_tiers(side.folder / TIERS)
    images = Counter(image.tier for image in tiers.named)
    return [
        TierFalseAlarms(
            low=tier.low,
            high=tier.high,
            images=images[number],
            alarms=0,
            **asdict(OneSidedBounds.of(0, images[number])),
        )
        for number, tier in enumerate(tiers.tiers)
    ]


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
                bounds = OneSidedBounds.of(alarms, n)
                yield FalseAlarms(
                    source="protection",
                    engine=checked.engine,
                    images=n,
                    alarms=alarms,
                    seconds_bound_95=_times(bounds.bound_95, seconds),
                    **asdict(bounds),
                    by_tier=[TierFalseAlarms(**tier.model_dump()) for tier in checked.alarms_by_tier],
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
