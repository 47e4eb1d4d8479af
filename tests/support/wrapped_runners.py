"""Engines that pass on what they are asked, to be made to misbehave in one way."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from testbed.engines.runner import BaseRunner


class PassingRunner(BaseRunner):
    """An engine with mutable weights that does what ``runner`` does."""

    def __init__(self, runner: Any) -> None:
        self.runner, self.info = runner, runner.info

    def run(self, feeds: Any) -> dict[str, NDArray]:
        outputs: dict[str, NDArray] = self.runner.run(feeds)
        return outputs

    def weight(self, tensor: str) -> NDArray:
        weight: NDArray = self.runner.weight(tensor)
        return weight

    def weight_changed(self, tensor: str) -> None:
        self.runner.weight_changed(tensor)

    def close(self) -> None:
        self.runner.close()
