"""What native code writes never lies among results."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from testbed.protect.placement.choice import CoverageProblem, best_choice

_PROGRAM = """
import ctypes, os
from testbed.core.process.native_output import native_stdout_to_stderr
print("before")
with native_stdout_to_stderr():
    ctypes.CDLL(None).printf(b"buffered by C\\n")
    os.write(1, b"written at once\\n")
    {inside}
print("after")
"""


@pytest.mark.parametrize("inside", ["pass", "raise KeyError"])
def test_native_lines_go_to_standard_error(inside: str) -> None:
    ran = subprocess.run([sys.executable, "-c", _PROGRAM.format(inside=inside)], capture_output=True, text=True)
    assert ran.stdout == ("before\nafter\n" if inside == "pass" else "before\n")
    assert "buffered by C" in ran.stderr
    assert "written at once" in ran.stderr


def test_a_closed_standard_output_is_no_error() -> None:
    program = "import os; os.close(1)\nfrom testbed.core.process.native_output import native_stdout_to_stderr\n"
    program += "with native_stdout_to_stderr():\n    pass\n"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_a_solver_that_prints_does_not_print_among_results(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    solve = scipy.optimize.milp

    def loud(*arguments: Any, **options: Any) -> Any:
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\n")
        return solve(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "milp", loud)
    best_choice(CoverageProblem(np.eye(3, dtype=bool), np.ones(3), np.ones(3), 2.0))
    assert capfd.readouterr().out == ""
