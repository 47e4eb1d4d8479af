"""A campaign that is interrupted again and again, in bursts, and ends with the rows of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.campaigns import TINY
from tests.support.victims import assert_same_rows, leftovers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's"),
]

ENDS_S = 30.0  # after the last signal, whatever the process was doing
TIMES = 12


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bursts_of_signals_neither_deafen_a_campaign_nor_cost_a_row(
    workers: str, tiny_run: Path, tmp_path: Path, cache_dir: Path
) -> None:
    folder, dice = tmp_path / "run", random.Random(workers)
    command = [
        sys.executable,
        "-m",
        "testbed",
        "campaign",
        "run",
        str(TINY),
        "--run",
        str(folder),
        "--workers",
        workers,
    ]
    pipe = subprocess.PIPE
    whole_s = 20.0
    for _ in range(TIMES):
        begun = time.monotonic()
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
            time.sleep(dice.uniform(0.2, whole_s))
            if process.poll() is not None:
                whole_s = time.monotonic() - begun
                break
            children = psutil.Process(process.pid).children(recursive=True)
            for _ in range(dice.choice([1, 2, 3])):
                if process.poll() is None:
                    os.killpg(process.pid, dice.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
                time.sleep(dice.choice([0.0, 0.005, 0.02]))
            output, told = process.communicate(timeout=ENDS_S)
        assert "Traceback" not in output + told
        assert "bug" not in told
        assert process.returncode in (0, 129, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)
        assert psutil.wait_procs(children, timeout=10)[1] == []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_rows(folder, tiny_run)
    assert leftovers(folder) == []
