"""The judges of outputs, to be held against one another and timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs import native_judge
from testbed.analysis.outputs.outcome import measured


class OutcomeJudge(Protocol):
    """Measures outputs against goldens. faulty: (n, K); golden: (m, K); row: (n,) which golden each is held against."""

    def __call__(
        self,
        faulty: NDArray[np.float32],
        golden: NDArray[np.float32],
        row: NDArray[np.int64],
        atol: NDArray[np.float64],
        rtol: float,
        rtol_grid: Sequence[float],
    ) -> Any: ...


def outcome_judges() -> dict[str, OutcomeJudge]:
    """Name every judge of this machine: "numpy", the reference, and the compiled one for each instruction set.

    Returns:
        Name -> function of (faulty outputs (n, K), goldens (m, K), golden row of each (n,), atol (n,), rtol, rtol grid).

    Example:
        ```py
        judges = outcome_judges()
        judges["numpy"](faulty, golden, row, np.full(len(row), 1e-4), 1e-4, [0.0, 1e-4])
        ```
    """

    return {"numpy": _numpy_judge} | {name: _compiled(name) for name in native_judge.sets()}


def _numpy_judge(
    faulty: NDArray[np.float32],
    golden: NDArray[np.float32],
    row: NDArray[np.int64],
    atol: NDArray[np.float64],
    rtol: float,
    rtol_grid: Sequence[float],
) -> Any:
    return measured(faulty, golden[row], atol, rtol, rtol_grid)


def _compiled(name: str) -> OutcomeJudge:
    def judge(
        faulty: NDArray[np.float32],
        golden: NDArray[np.float32],
        row: NDArray[np.int64],
        atol: NDArray[np.float64],
        rtol: float,
        rtol_grid: Sequence[float],
    ) -> Any:
        return native_judge.judge(faulty, golden, row, atol, rtol, rtol_grid, name)

    return judge
