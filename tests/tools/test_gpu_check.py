"""The GPU host's checks, tried without one: on the CPU, and on the CUDA kernels emulated."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_check
import numpy as np
import pandas as pd
import pytest
from gpu_checks import campaigns, engines, kernels, latency
from gpu_checks.common import Absent, Setting

from testbed.core.errors import EngineError
from testbed.engines import cuda, cuda_driver
from testbed.engines.doctor import cuda_devices
from tests.engines.test_cuda import HostDriver

SCRIPT = Path(gpu_check.__file__)


def run(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(gpu=False, quick=True, folder=tmp_path)


# ---- the command


@pytest.mark.skipif(bool(cuda_devices()[0]), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "report.json")
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_kernels_on_the_cpu_and_what_is_absent(tmp_path: Path, native_build: Path) -> None:
    names = ("kernel_numerics", "kernel_bandwidth", "cuda_graphs")
    only = [word for name in names for word in ("--only", name)]
    out = tmp_path / "report.json"
    done = run(out, "--without-gpu", "--quick", "--date", "2026-01-31", *only, TESTBED_NATIVE=str(native_build))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert (report["ok"], report["date"], report["devices"], report["driver"]) == (True, "2026-01-31", [], None)
    assert report["versions"]["numpy"] == np.__version__
    numerics, bandwidth, graphs = (report["sections"][name] for name in names)
    assert numerics["ok"]
    assert set(numerics["formats"]) == {"fp32", "fp16", "bf16", "int8", "uint8", "int32"}
    for format_name, operations in numerics["formats"].items():
        assert set(operations) == {"flip", "stuck0", "stuck1", "random", "identity", "repeated"}, format_name
        assert all(count["faults"] > 0 == count["mismatches"] for count in operations.values())
    assert bandwidth == {"ran": False, "ok": False, "reason": "needs a GPU"}
    assert not graphs["ran"]
    assert graphs["reason"].startswith("not offered")


def test_where_nothing_could_run_nothing_is_ok(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = run(out, "--without-gpu", "--only", "kernel_bandwidth")
    assert done.returncode == 3
    assert json.loads(out.read_text())["ok"] is False


@pytest.mark.slow
def test_all_sections(tmp_path: Path, native_build: Path) -> None:
    out = tmp_path / "report.json"
    done = run(out, "--without-gpu", "--quick", TESTBED_NATIVE=str(native_build))
    assert done.returncode == 0, done.stderr
    sections = json.loads(out.read_text())["sections"]
    assert list(sections) == list(gpu_check.SECTIONS)
    ran = {name for name, section in sections.items() if section["ran"]}
    assert {"kernel_numerics", "campaign_concordance", "torch", "latency"} <= ran
    compared = sections["campaign_concordance"]
    assert compared["pairs"] > 100
    assert compared["agreement_all_outcomes"] == 1
    assert len(compared["matrix"]) > 2


# ---- sections are independent


def fails(error: Exception) -> Any:
    def section(setting: Setting) -> dict[str, object]:
        raise error

    return section


def test_what_fails_is_told_apart_from_what_is_absent(setting: Setting) -> None:
    told = [
        gpu_check.run_section(fails(e), setting)
        for e in (Absent("no such library"), EngineError("no kernel"), ValueError("a\nb"))
    ]
    assert told[0] == {"ran": False, "ok": False, "reason": "no such library"}
    assert told[1] == {"ran": True, "ok": False, "reason": "no kernel"}
    assert told[2]["ran"]
    assert str(told[2]["reason"]).startswith("ValueError at test_gpu_check.py:")
    good: dict[str, object] = {"ran": True, "ok": True}
    assert gpu_check.verdict({"a": good, "b": told[0]})
    assert not gpu_check.verdict({"a": good, "b": told[1]})
    assert not gpu_check.verdict({"b": told[0]})


def test_a_section_that_ends_its_process_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import os, sys\nprint('out of luck', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setattr(gpu_check, "__file__", str(broken))
    options = gpu_check._options(["--out", "report.json", "--without-gpu"])
    found = gpu_check.in_own_process("latency", options)
    assert found == {"ran": True, "ok": False, "reason": "the process ended with -6: out of luck"}


def test_numbers_that_json_does_not_have() -> None:
    values = {"a": [np.float64("nan"), float("inf"), np.int64(3), np.bool_(True)], 1: 0.5}
    assert gpu_check._without_nan(values) == {"a": ["nan", "inf", 3, True], "1": 0.5}


# ---- kernels, on the emulation


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, emulated_cuda_build: Path, tmp_path: Path) -> Setting:
    monkeypatch.setenv("TESTBED_NATIVE", str(emulated_cuda_build))
    monkeypatch.setattr(cuda_driver, "_BINDINGS", {"emulated": HostDriver})
    return Setting(gpu=True, quick=True, folder=tmp_path)


def test_numerics_of_the_cuda_kernels(emulated: Setting) -> None:
    found = kernels.numerics(emulated)
    assert (found["ok"], found["kernel"], found["out_of_range_refused"]) == (True, "cuda", True)
    assert found["port_mismatches"] == dict.fromkeys(kernels.DTYPES, 0)


def test_a_wrong_kernel_is_found(emulated: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cuda.apply_faults_on_device

    def wrong(device: Any, values: Any, indices: Any, keep: Any, put: Any, turn: Any) -> None:
        right(device, values, indices, keep, turn, put)

    monkeypatch.setattr(cuda, "apply_faults_on_device", wrong)
    found: Any = kernels.numerics(emulated)
    assert not found["ok"]
    assert "NumPy reference" in found["reason"]
    assert found["formats"]["bf16"]["flip"]["mismatches"] > 0


def test_bandwidth_counts_bytes(emulated: Setting) -> None:
    found: Any = kernels.bandwidth(emulated)
    assert [row["format"] for row in found["formats"]] == list(kernels.DTYPES)
    assert all(row["copy_gb_per_s"] > 0 < row["strike_gb_per_s"] for row in found["formats"])


# ---- engines, campaigns, latency


def test_the_steps_of_an_engine(setting: Setting) -> None:
    found: Any = engines.steps(setting, "ort-cpu")
    assert found["ok"], found["reason"]
    assert found["activation_faults"]["sites"] > 40
    assert found["weight_faults"]["refused"] == {}


def test_an_engine_that_strikes_the_wrong_bit_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.engines.torch import TorchRunner

    right = TorchRunner.run

    def wrong(self: TorchRunner, feeds: Any) -> Any:
        if "fault_value" in feeds:
            feeds = feeds | {"fault_value": (feeds["fault_value"].view(np.uint32) ^ 1).view(np.float32)}
        return right(self, feeds)

    monkeypatch.setattr(TorchRunner, "run", wrong)
    monkeypatch.setattr(TorchRunner, "weight_changed", lambda *_: (_ for _ in ()).throw(EngineError("refused")))
    found: Any = engines.steps(setting, "torch")
    assert found["plain"]["ok"]
    assert found["activation_faults"]["rows_with_wrong_bits"] == found["activation_faults"]["faults"]
    assert not found["weight_faults"]["ok"]
    assert not found["ok"]


def test_outcomes_are_compared_pair_by_pair() -> None:
    key = {"target": "model", "where": "activation", "site": "head", "op": "flip", "bit": 0, "image_id": "x"}
    rest = {"max_abs_diff": 0.0, "margin_faulty": 0.5}

    def rows(*outcomes: str) -> pd.DataFrame:
        return pd.DataFrame([key | rest | {"index": i, "outcome": o} for i, o in enumerate(outcomes)])

    found = campaigns.compare(rows("identical", "masked", "sdc", "sdc1"), rows("masked", "masked", "sdc", "sdc", "due"))
    assert (found["pairs"], found["only_a"], found["only_b"]) == (4, 0, 1)
    assert (found["agreement"], found["agreement_all_outcomes"], found["disagreements"]) == (0.75, 0.5, 1)
    assert found["listed"][0]["index"] == 3
    assert found["by_place"] == {"model/activation": {"pairs": 4, "disagree": 1}}


def test_latency_keeps_its_samples(setting: Setting) -> None:
    found: Any = latency.latency(setting)
    assert {(m["target"], m["batch"]) for m in found["measured"]} == {
        (target, batch) for target in ("attention", "model") for batch in (1, 4)
    }
    for measured in found["measured"]:
        assert len(measured["samples_ms"]) == measured["runs"] >= 5
        assert min(measured["samples_ms"]) <= measured["p50_ms"] <= measured["p90_ms"] <= measured["p99_ms"]
        assert measured["engine_hash"]


def test_latency_measures_long_enough_and_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock) / 16)  # 62.5 ms from one look to the next

    class Counting:
        runs = 0

        def run(self, feeds: Any) -> Any:
            self.runs += 1

    runner: Any = Counting()
    assert latency.samples_ms(runner, {}, 3, 100, 0.0) == [62.5] * 100
    assert runner.runs == 103
    assert len(latency.samples_ms(runner, {}, 0, 1, 3.0)) == 24
    assert len(latency.samples_ms(runner, {}, 0, 10**6, 3.0)) == 30 * 8  # not for ever
