"""The stages of the GPU host's checks, tried without one: on the CPU, and on the CUDA kernels emulated."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gpu_checks import build, campaigns, engines, hooks, kernels, latency
from gpu_checks.common import Setting

from testbed.core.errors import EngineError, TestbedError
from testbed.core.process import libraries
from testbed.engines import cuda, cuda_driver
from tests.engines.cuda_emulation.host_driver import HostDriver

# ---- kernels


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, emulated_cuda_build: Path) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(emulated_cuda_build))
    monkeypatch.setattr(cuda_driver, "BINDINGS", {"emulated": HostDriver})


def test_the_cuda_kernels_are_those_of_the_reference(emulated: None) -> None:
    with cuda.Device() as device:
        found = kernels.numerics(kernels.applied_by(device), 64)
        assert found["ok"], found["reason"]
        assert kernels.refused(device) == {"ok": True}
        ported = kernels.ports(device, quick=True)
        assert ported["ok"]
        assert kernels.mismatches_far_out(device, elements=1 << 20) == 0
    assert {count["format"] for count in ported["tried"]} == set(kernels.DTYPES)
    assert not any(count["mismatches"] for count in ported["tried"])


def test_a_wrong_kernel_is_found(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cuda.upload_faults

    def wrong(device: Any, elements: Any, index: Any, keep: Any, put: Any, turn: Any, *rest: Any) -> Any:
        return right(device, elements, index, keep, turn, put, *rest)

    monkeypatch.setattr(cuda, "upload_faults", wrong)
    with cuda.Device() as device:
        found = kernels.numerics(kernels.applied_by(device), 64)
        ported = kernels.ports(device, quick=True)
        far_out = kernels.mismatches_far_out(device, elements=1 << 20)
    assert not found["ok"]
    assert "NumPy reference" in found["reason"]
    assert found["formats"]["bf16"]["flip"]["mismatches"] > 0
    assert not ported["ok"]
    assert far_out == 0  # of zeros, or and xor are the same


def test_buffers_of_a_scope_are_freed_at_its_end(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    with cuda.Device() as device:
        free = device.driver.free

        def noted(pointer: int) -> None:
            freed.append(pointer)
            free(pointer)

        monkeypatch.setattr(device.driver, "free", noted)
        kept = device.upload(np.arange(3, dtype=np.int8))
        with device.scope():
            scoped = device.upload(np.zeros(5, np.int8))
            assert freed == []
        assert freed == [scoped.pointer]
        assert device.download(kept).tolist() == [0, 1, 2]


def test_bandwidth_counts_bytes(emulated: None, setting: Setting) -> None:
    found: Any = kernels.bandwidth(setting)
    assert [row["format"] for row in found["formats"]] == list(kernels.DTYPES)
    assert all(row["copy_gb_per_s"] > 0 < row["strike_gb_per_s"] for row in found["formats"])


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_the_tool_compiles_the_cuda_kernels_for_the_gpu_of_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TESTBED_NATIVE", "GPU_CHECK_BUILT"):
        monkeypatch.setenv(name, "")  # what the tool sets is taken back after the test, whatever was there before
        monkeypatch.delenv(name)
    monkeypatch.setattr(build, "build_folder", lambda command: tmp_path)
    monkeypatch.setattr(build, "architecture", lambda: ("90",))
    found = build.use_cuda_kernels(gpu=True)
    built = (tmp_path / found["file"]).read_bytes()
    assert b"-arch sm_90 " in built
    assert b"libcudart.so" not in built
    assert str(build.ROOT) not in found["command"].replace(shutil.which("nvcc") or "", "")
    _, path = libraries.load(libraries.CUDA)
    assert path == tmp_path / "testbed_cuda.so"
    assert build.use_cuda_kernels(gpu=True)["seconds"] < 1  # once


def test_kernels_that_do_not_compile_are_a_reason(tmp_path: Path) -> None:
    source = tmp_path / "broken.cpp"
    source.write_text("int f() { return nothing; }")
    with pytest.raises(TestbedError, match=r"testbed_cpu does not compile: .*error.*nothing"):
        build.compile_library([build.compiler(), "-shared", str(source)], tmp_path / "testbed_cpu.so")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.cpp"]


# ---- engines, campaigns, latency


def test_the_steps_of_an_engine(setting: Setting) -> None:
    found: Any = engines.steps(setting, "ort-cpu")
    assert found["ok"], found["reason"]
    assert found["activation_faults"]["sites"] > 40
    assert found["weight_faults"]["refused"] == {}
    assert found["precisions"]["fp16"]["ok"]


def test_an_engine_that_flips_the_wrong_bit_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.engines.torch.runner import TorchRunner

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
    hooked = hooks.hooks(setting)  # of the same engine, by another way
    assert not hooked["ok"]
    assert hooked["wrong_before"] == 0 < hooked["wrong_logits"]


def test_hooks_and_twin_agree_bit_for_bit(setting: Setting) -> None:
    told: list[Any] = []
    found = hooks.hooks(replace(setting, tell=told.append))
    assert found["ok"], found["reason"]
    assert found["faults"] == 96 > found["sites"] > 40  # every site
    assert found["wrong_before"] == found["wrong_after"] == found["wrong_logits"] == 0
    assert [facts["faults"] for facts in told] == list(range(8, 97, 8))


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
    assert [(m["target"], m["engine"], m["batch"]) for m in found["measured"]] == [
        *(("model", engine, batch) for engine in ("plain", "twin") for batch in (1, 4)),
        *(("attention", "plain", batch) for batch in (1, 4)),
    ]
    for measured in found["measured"]:
        assert len(measured["samples_ms"]) == measured["runs"] >= 5
        told = [measured[f"p{share}_ms"] for share in (50, 90, 95, 99)]
        assert told == sorted(told)
        assert min(measured["samples_ms"]) <= told[0]
        assert measured["engine_hash"]
    late = latency.latency(replace(setting, limit_s=5))  # what is left out is said
    assert late["measured"] == []
    assert late["not_measured"] == [["torch", "fp32", "model"], ["torch", "fp32", "attention"]]


def test_latency_measures_long_enough_and_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock) / 16)  # 62.5 ms from one look to the next

    class Counting:
        runs = 0

        def run(self, feeds: Any) -> Any:
            self.runs += 1

    runner: Any = Counting()
    assert latency.samples_ms(runner, {}, 3, 60, 0.0) == [62.5] * 60
    assert runner.runs == 63
    assert len(latency.samples_ms(runner, {}, 0, 1, 3.0)) == 24
    assert len(latency.samples_ms(runner, {}, 0, 10**6, 3.0)) == 10 * 8  # not for ever
