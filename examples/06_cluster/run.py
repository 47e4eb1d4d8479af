"""Run the faults on Dask workers: here two processes of this machine, started for the purpose."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import testbed

spec = {
    "name": "cluster",
    "data": {"name": "digits"},
    "model": {"preset": "digits", "recipe": "digits", "training": {"epochs": 10, "learning_rate": 0.01}},
    "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
    "tolerance": {"atol": 1e-4, "rtol": 1e-4},
    "faults": [{"target": "model", "where": "activation", "ops": ["flip"], "bits": [22, 28, 30, 31]}],
}


def start(*arguments: str) -> subprocess.Popen:
    """A process of Dask, quiet."""
    return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stderr=subprocess.DEVNULL)


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "scheduler.json"
    common = ("--no-dashboard", "--scheduler-file", str(file))
    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0", *common)]
    try:
        while not file.exists() or not file.read_text().strip():
            time.sleep(0.1)
        local = ("--nworkers", "2", "--nthreads", "1", "--local-directory", folder)
        processes.append(start("worker", *local, *common))
        address = json.loads(file.read_text())["address"]  # of your own cluster: "tls://HOST:8786"
        with testbed.run(spec, "runs/06_cluster", scheduler=address) as run:
            print(run.rates()[["where", "op", "estimate", "low", "high", "n"]].round(4).to_string(index=False))
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
