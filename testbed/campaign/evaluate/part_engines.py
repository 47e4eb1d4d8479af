"""Engines for parts of a graph, opened as the whole is; their time counts as the whole engine's."""

from __future__ import annotations

import time

from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import OpenPart
from testbed.campaign.files import Files
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.engines.runner import Arrays, BaseRunner, EngineRequest, Runner


def opener(workplace: Workplace, engine: CampaignEngine) -> OpenPart:
    """Opens engines for parts of the target's graph, as the whole is opened; their time counts as the engine's."""
    whole = workplace.request(engine.target, Files(engine.target).twin)

    def opened(model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Runner:
        request = EngineRequest.of_bytes(
            model,
            whole.deployment_id,
            precision=whole.precision,
            threads=whole.threads,
            mutable_weights=mutable_weights,
            max_batch=batch or whole.max_batch,
            weights=whole.weights,
        )
        return Timed(workplace.open(request), engine)

    return opened


class Timed(BaseRunner):
    """Adds the time of its runs to an engine's."""

    def __init__(self, runner: Runner, engine: CampaignEngine) -> None:
        self._runner, self._engine, self.info = runner, engine, runner.info

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        start = time.perf_counter()
        try:
            return self._runner.run(feeds)
        finally:
            self._engine.engine_seconds += time.perf_counter() - start

    def weight(self, tensor: str) -> NDArray:
        return self._runner.weight(tensor)  # type: ignore[attr-defined]

    def weight_changed(self, tensor: str) -> None:
        self._runner.weight_changed(tensor)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._runner.close()
