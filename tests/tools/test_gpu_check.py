"""The GPU host's checks, tried without one: the budget on stages made for it, what is missing, the command."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_check
import numpy as np
import pytest
from gpu_checks import child, common, running, stages, subject
from gpu_checks.common import Absent, Setting
from gpu_checks.running import Report, run_stages
from gpu_checks.stages import Missing, Stage

from testbed.core.errors import EngineError
from testbed.engines.gpu import cuda_devices
from tests.support.clusters import until

SCRIPT = Path(gpu_check.__file__)
FAKES = """
import os, time

def fine(setting):
    return {"ok": True, "device": setting.device}

def parts_then_hangs(setting):
    setting.tell({"part": 1})
    setting.tell({"part": 2, "limit_s": setting.limit_s})
    time.sleep(600)

def hangs_with_a_child(setting):
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    setting.tell({"pids": [os.getpid(), child.pid]})
    time.sleep(600)

def wrong(setting):
    setting.tell({"seen": 3})
    return {"ok": False, "reason": "3 words differ"}

def breaks(setting):
    setting.tell({"seen": 4})
    raise ValueError("a\\nb")

def absent(setting):
    from gpu_checks.common import Absent
    raise Absent("no such engine")

def aborts(setting):
    import sys
    print("out of luck", file=sys.stderr, flush=True)
    os.abort()
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def fake(name: str, share: float = 1.0) -> Stage:
    return Stage(name, "made for a test", f"fake_stages:{name}", share, ())


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module of fake stages, which processes of stages can import."""
    (tmp_path / "fake_stages.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    return tmp_path


def run_fakes(folder: Path, *chosen: Stage, budget_s: float, lacking: tuple[Missing, ...] = ()) -> dict[str, Any]:
    """Runs them; what the report's file holds."""
    report = Report(folder / "report.json", {"format": gpu_check.FORMAT})
    setting = Setting(gpu=False, quick=True, folder=folder, shared=folder)
    run_stages(chosen, setting, report, lacking, budget_s=budget_s)
    written: dict[str, Any] = json.loads(report.path.read_text())
    assert written == report.to_dict()
    return written


def runs(pid: int) -> bool:
    """Whether the process is there, and more than its parent's record of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- the budget


def test_a_stage_that_hangs_is_ended_at_its_limit_and_costs_no_other(fakes: Path) -> None:
    began = time.monotonic()
    written = run_fakes(fakes, fake("fine"), fake("parts_then_hangs", 0.1), fake("wrong"), budget_s=40)
    assert time.monotonic() - began < 30
    good, hung, wrong = written["stages"].values()
    assert (good["status"], good["facts"], good["error"]) == ("passed", {"device": "cpu"}, None)
    assert good["limit_s"] <= 40
    assert (hung["status"], hung["limit_s"]) == ("timeout", 4.0)
    assert hung["error"] == "ended after 4 s, its limit"
    assert hung["facts"] == {"part": 2, "limit_s": 4.0}  # what it had found
    assert 4 <= hung["seconds"] < 10
    assert (wrong["status"], wrong["error"], wrong["facts"]) == ("failed", "3 words differ", {"seen": 3})
    assert written["ok"] is False


def test_what_a_stage_started_is_ended_with_it(fakes: Path) -> None:
    written = run_fakes(fakes, fake("hangs_with_a_child"), budget_s=3)
    pids = written["stages"]["hangs_with_a_child"]["facts"]["pids"]
    assert len(pids) == 2
    until(lambda: not any(map(runs, pids)), within_s=20)  # the kernel ends what was killed when it next runs


def test_a_stage_that_no_longer_fits_is_not_begun(fakes: Path) -> None:
    written = run_fakes(fakes, fake("parts_then_hangs", 0.9), fake("fine", 0.9), budget_s=3)
    hung, late = written["stages"].values()
    assert hung["status"] == "timeout"
    assert late["status"] == "not run"
    assert late["error"].startswith("budget: 0 s left of 3")
    assert late["seconds"] == 0


def test_what_fails_is_told_apart_from_what_is_absent(fakes: Path) -> None:
    lacking = (Missing("pydantic", "No module named 'pydantic'", ("fine",)),)
    chosen = [fake(name) for name in ("breaks", "absent", "fine", "aborts")]
    written = run_fakes(fakes, *chosen, budget_s=120, lacking=lacking)
    broke, absent, lacks, aborted = written["stages"].values()
    assert broke["status"] == "failed"
    assert broke["error"].startswith("ValueError at fake_stages.py:")
    assert broke["facts"] == {"seen": 4}
    assert (absent["status"], absent["error"]) == ("skipped", "no such engine")
    assert (lacks["status"], lacks["error"]) == ("skipped", "pydantic: No module named 'pydantic'")
    assert (aborted["status"], aborted["error"]) == ("failed", "the process ended with -6: out of luck")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the stage with the tool")
def test_a_tool_that_is_killed_leaves_a_whole_report_and_no_process(fakes: Path) -> None:
    program = f"""
import sys; sys.path[:0] = {[str(SCRIPT.parent)]!r}
from pathlib import Path
from tests.tools.test_gpu_check import fake, run_fakes
run_fakes(Path({str(fakes)!r}), fake("fine"), fake("hangs_with_a_child"), fake("wrong"), budget_s=500)
"""
    tool = subprocess.Popen([sys.executable, "-c", program])
    report = fakes / "report.json"
    written: dict[str, Any] = {}
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not written.get("hangs_with_a_child", {}).get("facts"):
            time.sleep(0.1)
            written = json.loads(report.read_text())["stages"] if report.exists() else {}  # whole whenever it is read
    finally:
        tool.send_signal(signal.SIGKILL)
        tool.wait()
    stage = json.loads(report.read_text())["stages"]
    assert stage["fine"]["status"] == "passed"
    assert stage["hangs_with_a_child"]["status"] == "not run"
    assert stage["hangs_with_a_child"]["error"] == "begun, and the tool ended before it did"
    assert stage["wrong"] == {"status": "not run", "seconds": 0.0, "facts": {}, "error": "not reached"}
    own, started = stage["hangs_with_a_child"]["facts"]["pids"]
    end = time.monotonic() + 10
    while runs(own) and time.monotonic() < end:
        time.sleep(0.05)
    assert not runs(own)
    os.kill(started, signal.SIGKILL)  # a campaign's own processes end by themselves when their parent is gone


@pytest.mark.parametrize(
    ("statuses", "ok"),
    [
        ("passed", True),
        ("passed,skipped,not run", True),
        ("passed,failed", False),
        ("passed,timeout", False),
        ("skipped,not run", False),
    ],
)
def test_the_verdict(statuses: str, ok: bool) -> None:
    records = {str(number): {"status": status} for number, status in enumerate(statuses.split(","))}
    assert Report(Path("unused"), {}, records).ok is ok


def test_the_shares_leave_no_worthier_stage_out() -> None:
    """The four that say most fit one after another even if each takes all that it may."""
    names = [stage.name for stage in stages.STAGES]
    assert names[:5] == ["kernels", "campaign", "hooks", "vit_base", "latency"]
    left = 1.0
    for stage in stages.STAGES[:4]:
        assert left >= running.FITS * stage.share, stage.name
        left -= stage.share


# ---- what is missing


def test_what_is_missing_is_one_list_with_the_stages_it_skips(tmp_path: Path) -> None:
    broken = tmp_path / "pydantic"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('built for another Python\\nreally')")
    out = tmp_path / "report.json"
    path = f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"
    done = run("--without-gpu", "--stages", "campaign,vit_base", "--to", str(out), PYTHONPATH=path)
    assert done.returncode == 3, done.stderr
    told = "missing here:\n  pydantic (built for another Python): skips campaign, vit_base\n"
    assert done.stderr.startswith(told)
    report = json.loads(out.read_text())
    assert report["missing"] == [
        {"name": "pydantic", "why": "built for another Python", "skips": ["campaign", "vit_base"]}
    ]
    assert {stage["status"] for stage in report["stages"].values()} == {"skipped"}


def test_a_missing_library_skips_only_its_stages() -> None:
    found = dict.fromkeys(itertools.chain(*(s.wants(True) for s in stages.STAGES)))
    found |= {"cuda.bindings": "no", "pycuda": None, "tensorrt": "No module", "torch:cuda": None}
    assert stages.missing(stages.STAGES, found, gpu=True) == [Missing("tensorrt", "No module", ("tensorrt",))]
    neither = found | {"pycuda": "no such"}
    assert Missing("cuda.bindings or pycuda", "no; no such", ("kernels",)) in stages.missing(
        stages.STAGES, neither, gpu=True
    )
    assert not any(m.name.startswith("cuda") for m in stages.missing(stages.STAGES, neither, gpu=False))


def test_a_library_that_ends_or_hangs_the_process_is_missing(fakes: Path) -> None:
    (fakes / "ends_it.py").write_text("import os; os.abort()")
    (fakes / "hangs.py").write_text("import time; time.sleep(600)")
    (fakes / "talks.py").write_text("print('[\"loud\"')")
    found = running.probe(["json", "ends_it", "talks", "nvcc"], 30)
    assert found["json"] is found["talks"] is None
    assert found["ends_it"] == "ended the process that imported it"
    assert found["nvcc"] == (None if shutil.which("nvcc") else "not on PATH")
    slow = running.probe(["json", "hangs", "talks"], 3)
    assert slow == {"json": None, "hangs": "not imported within 3 s", "talks": "not imported within 3 s"}


# ---- the command


@pytest.mark.skipif(bool(cuda_devices()[0]), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run("--to", str(tmp_path / "report.json"))
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--budget", "0"], "'0' is not a number of seconds such as 480"),
        (["--budget", "nan"], "is not a number of seconds"),
        (["--stages", "kernels,nothing"], "unknown stage 'nothing'; known: kernels, campaign, hooks"),
        (["--stages", ","], "unknown stage ','"),
        (["--weights", "nowhere.pth"], "no such file: nowhere.pth"),
        (["--data", "imagefolder:x"], "give that too"),
        (["--date", "31.1.2026"], "is not a date"),
    ],
)
def test_a_wrong_call(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert gpu_check.main(["--without-gpu", "--to", str(tmp_path / "file" / "report.json")]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {tmp_path / 'file' / 'report.json'} cannot be written")
    assert len(told.err.splitlines()) == 1


def test_the_list_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [stage.name for stage in stages.STAGES]


def test_the_name_of_a_report() -> None:
    assert gpu_check.slug(["NVIDIA H200", "NVIDIA H200"]) == "nvidia-h200"
    assert gpu_check.slug([]) == "without-gpu"


def test_kernels_on_the_cpu(tmp_path: Path, native_build: Path, emulated_cuda_build: Path) -> None:
    """The whole command, in seconds: the emulation stands in for the GPU."""
    for library in native_build.iterdir():
        if not (emulated_cuda_build / library.name).exists():
            shutil.copy(library, emulated_cuda_build)
    out = tmp_path / "report.json"
    arguments = [
        "--without-gpu",
        "--stages",
        "kernels",
        "--date",
        "2026-01-31",
        "--revision",
        "abc",
        "--json",
        "--to",
        str(out),
    ]
    done = run(*arguments, TESTBED_NATIVE=str(emulated_cuda_build))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    assert (report["ok"], report["date"], report["device"], report["driver"]) == (True, "2026-01-31", None, None)
    assert (report["budget_s"], report["missing"], report["revision"]) == (480, [], "abc")
    assert report["versions"]["numpy"] == np.__version__
    stage = report["stages"]["kernels"]
    assert stage["status"] == "passed"
    assert stage["limit_s"] <= 480 * stages.STAGES[0].share
    for part in ("cpu_kernel", "numerics"):
        formats = stage["facts"][part]["formats"]
        assert set(formats) == {"fp32", "fp16", "bf16", "int8", "uint8", "int32"}
        for format_name, operations in formats.items():
            assert set(operations) == {"flip", "stuck0", "stuck1", "random", "identity", "repeated"}, format_name
            assert all(count["faults"] > 0 == count["mismatches"] for count in operations.values())
    assert stage["facts"]["refused"]["ok"]
    assert str(Path.home()) not in out.read_text()


@pytest.mark.slow
def test_every_stage_from_a_plain_checkout(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = run("--without-gpu", "--budget", "900", "--to", str(out))
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())["stages"]
    assert list(written) == [stage.name for stage in stages.STAGES]
    passed = {name for name, stage in written.items() if stage["status"] == "passed"}
    assert passed == {"kernels", "campaign", "hooks", "vit_base", "latency", "torch_cuda"}
    assert {written[name]["status"] for name in written.keys() - passed} == {"skipped"}
    compared = written["campaign"]["facts"]
    assert compared["pairs"] > 100
    assert compared["agreement_all_outcomes"] == 1
    assert compared["golden_drift"]["max_abs_diff"] == 0
    assert len(compared["matrix"]) > 2
    assert compared["fastest"]["pairs"] == compared["pairs"]
    assert {how["by"] for how in compared["fastest"]["evaluation"].values()} >= {"suffix"}
    assert {how["by"] for how in compared["campaign_a"]["evaluation"].values()} == {"whole"}
    hooked = written["hooks"]["facts"]
    assert hooked["faults"] >= 96
    assert hooked["wrong_before"] == hooked["wrong_after"] == hooked["wrong_logits"] == 0
    assert written["vit_base"]["facts"]["fastest"]["injections"] > 40


def test_a_report_names_the_data_without_the_machines_folders() -> None:
    assert subject.named_source("imagefolder:/home/me/cifar10/test") == "imagefolder:test"
    assert subject.named_source("digits") == "digits"
    assert subject.named_source(None) == "random, seed 0"


def test_numbers_that_json_does_not_have() -> None:
    values = {"a": [np.float64("nan"), float("inf"), np.int64(3), np.bool_(True)], 1: 0.5, "p": Path("x")}
    assert common.plain(values) == {"a": ["nan", "inf", 3, True], "1": 0.5, "p": "x"}


def test_a_setting_travels_to_the_process_of_a_stage(setting: Setting, tmp_path: Path) -> None:
    sent = replace(setting, weights=tmp_path / "a.pth", data="digits", limit_s=12.5)
    told: list[Any] = []
    found = Setting.from_json(sent.to_json(), told.append)
    assert found.to_json() == sent.to_json()
    assert found.weights == tmp_path / "a.pth"
    assert found.left_s <= 12.5
    found.tell({"a": 1})
    assert told == [{"a": 1}]
    assert Setting.from_json(setting.to_json(), told.append).limit_s == float("inf")


def test_a_sections_end_is_told_with_its_reason(setting: Setting) -> None:
    def raising(error: Exception) -> Any:
        def section(setting: Setting) -> dict[str, Any]:
            raise error

        return section

    told = [child.run_section(raising(e), setting) for e in (Absent("no library"), EngineError("no kernel"))]
    assert told[0] == {"ran": False, "ok": False, "reason": "no library"}
    assert told[1] == {"ran": True, "ok": False, "reason": "no kernel"}
