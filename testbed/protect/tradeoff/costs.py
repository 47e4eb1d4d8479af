"""What the models of a trade-off cost as deployed: latency in turns with the plain one, and operations of their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from testbed.bench.latency import LatencyRow, Question, measure
from testbed.bench.operations import Operations, operations_of
from testbed.bench.timing import ratio_to
from testbed.campaign.files import Files
from testbed.core.errors import TestbedError
from testbed.protect.paired.false_alarms import false_alarms_of
from testbed.protect.paired.record import FalseAlarms
from testbed.protect.tradeoff.campaigns import DeployedModel, TradeoffCampaigns
from testbed.protect.tradeoff.record import CostedModel, MeasuredLatency


def costed_models(
    campaigns: TradeoffCampaigns, question: Question, confidence: float, notify: Callable[[str], None]
) -> list[CostedModel]:
    """What each model costs, the plain one first. Raises TestbedError where a file that is timed is not the one that was
    run."""
    models = [campaigns.plain, *campaigns.protected]
    folders = [model.folder for model in models]
    rows = measure(folders, question, campaigns.plain.folder, notify)
    names, counted = _names(folders), _operations(campaigns.plain)
    by_folder = [[row for row in rows if row.model == str(folder)] for folder in folders]
    return [
        _costed(name, model, own, by_folder[0], counted, confidence)
        for name, model, own in zip(names, models, by_folder, strict=True)
    ]


def _costed(
    name: str,
    model: DeployedModel,
    rows: Sequence[LatencyRow],
    plain: Sequence[LatencyRow],
    counted: Operations,
    confidence: float,
) -> CostedModel:
    for row in rows:
        if row.deployment_id != model.deployment_id:
            raise TestbedError(f"{model.folder} was changed while it was timed; run the command again")
    operations = _operations(model)
    added = sum(operations.without(counted).values())
    return CostedModel(
        name=name,
        folder=str(model.folder),
        deployment_id=model.deployment_id,
        passes=list(model.passes),
        campaigns=[str(side.path) for side in model.campaigns],
        engine_hash=rows[0].engine_hash,
        twin_hashes=sorted({str(name) for side in model.campaigns for name in side.rows["engine_hash"].unique()}),
        latency=[_latency(row, base, confidence) for row, base in zip(rows, plain, strict=True)],
        macs=operations.total_macs,
        macs_added_percent=100 * (operations.total_macs / counted.total_macs - 1),
        operations_added_percent=100 * added / counted.total_macs,
        false_alarms=_false_alarms(model),
    )


def _latency(row: LatencyRow, base: LatencyRow, confidence: float) -> MeasuredLatency:
    ratio = ratio_to(np.array(base.latency_ms), np.array(row.latency_ms), confidence)
    return MeasuredLatency(
        batch=row.batch,
        runs=row.runs,
        p50_ms=row.p50_ms,
        ratio=ratio.value,
        low=ratio.low,
        high=ratio.high,
        latency_ms=list(row.latency_ms),
    )


def is_shown_cheaper(first: CostedModel, second: CostedModel, confidence: float) -> bool:
    """Whether the first model's latency is shown to be below the second's at the first batch, by the rounds of both."""
    ratio = ratio_to(np.array(second.latency[0].latency_ms), np.array(first.latency[0].latency_ms), confidence)
    return first is not second and ratio.high is not None and ratio.high < 1


def _operations(model: DeployedModel) -> Operations:
    return operations_of(onnx.load(str(model.campaigns[0].folder / Files("model").plain)))


def _false_alarms(model: DeployedModel) -> list[FalseAlarms]:
    """Those of each campaign's images, and once those that the model was held against when it was protected."""
    alarms = [alarms for side in model.campaigns if side.passes is not None for alarms in false_alarms_of(side)]
    return [entry for number, entry in enumerate(alarms) if entry not in alarms[:number]]


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders; where two are alike, with as many of those above them as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(map(str, folders))
