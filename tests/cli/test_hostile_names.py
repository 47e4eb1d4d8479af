"""Every command that reports, over files, folders, classes, data sets and tensors whose names a terminal would obey.

One list of commands, run in one folder after the other as a user would. Of each: it ends as it should, no byte that a
terminal obeys is printed, and its JSON gives the names back as they are.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from testbed.data import load
from tests.support.commands import invoke

if sys.platform == "win32":
    pytest.skip("file names of Windows are tame", allow_module_level=True)

HOSTILE = "x[/b][red]:smile:\x1b[31m\x07\r\n\u202e$\\frac$"
SHOWN = r"x[/b][red]:smile:\x1b[31m\x07\r\n\u202e$\frac$"
FILE = HOSTILE.replace("/", "")
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff]")

SPEC = """
name = "hostile"
seed = 1
data = { name = DATA }
model = { run = RUN }
tiers = { edges = [1.0], images = [3], thin = 2 }
engine = { batch = 8, threads = 1 }
gates = { zero_fault_rows = 8, allow_chance_accuracy = true }
tolerance = { atol = 1e-4, rtol = 1e-4 }
faults = [
    { target = "model", where = "activation", sites = ["head", "*.softmax"], bits = [30], per_stratum = 40 },
    { target = "model", where = "weight", sites = ["head.bias"], bits = [30], per_stratum = 2 },
]
"""


def told(*arguments: object, exit_code: int = 0) -> str:
    """What the command prints, both streams; fails if anything of it is not printable."""
    result = invoke(*arguments)
    assert result.exit_code == exit_code, (arguments, result.output, result.exception)
    found = OBEYED.search(result.output)
    assert not found, (arguments, found)
    return result.output


def in_json(*arguments: object) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    assert not OBEYED.search(result.stdout)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("names") / HOSTILE
    made.mkdir(parents=True)
    return made


@pytest.fixture(scope="module")
def data(folder: Path) -> str:
    """A few digits, of two classes with hostile names, in a file with one."""
    digits, arrays = load("digits", seed=42), dict[str, Any]()
    for name, split, count in (("train", digits.train, 64), ("val", digits.validation, 8), ("test", digits.test, 16)):
        chosen = np.flatnonzero(split.labels < 2)[:count]
        arrays[f"{name}_images"] = np.stack([split.pixels(i) for i in chosen])
        arrays[f"{name}_labels"] = split.labels[chosen]
    path = folder / f"{FILE}.npz"
    np.savez(path, classes=np.array([f"zero {HOSTILE}", f"one {HOSTILE}"]), **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def model(folder: Path, data: str) -> Path:
    """A trained model's run folder."""
    run = folder / f"model {FILE}"
    sizes = [
        word
        for size in ("width=16", "heads=[4]", "head_width=4", "mlp=[16]", "qkv_bias=false")
        for word in ("--set", size)
    ]
    assert SHOWN in told("train", "digits", "--dataset", data, "--epochs", 1, *sizes, "--run", run, "--dry-run")
    assert SHOWN in told("train", "digits", "--dataset", data, "--epochs", 1, *sizes, "--run", run)
    return run


@pytest.fixture(scope="module")
def campaign(folder: Path, data: str, model: Path) -> Path:
    spec = folder / f"{FILE}.toml"
    spec.write_text(SPEC.replace("DATA", json.dumps(data)).replace("RUN", json.dumps(str(model))))
    assert told("campaign", "run", spec, "--dry-run")
    assert told("campaign", "plan", spec)
    run = folder / f"campaign {FILE}"
    assert SHOWN in told("campaign", "run", spec, "--run", run, "--workers", 0)
    return run


def test_data_sets(data: str, folder: Path) -> None:
    assert SHOWN in told("data", "check", data)
    assert HOSTILE in in_json("data", "check", data)["classes"][0]
    assert SHOWN in told("data", "list", "--root", folder)
    assert "x[/b][red]:smile:" in told("data", "check", f"imagefolder:{folder}/none", exit_code=1)


def test_models_and_goldens(model: Path, folder: Path) -> None:
    for command in (
        ["golden", "record", model, "--images", "0:8"],
        ["golden", "verify", model],
        ["golden", "export-originals", model, "--to", folder / "originals", "--name", FILE],
        ["export", model],
        ["export-weights", model, "--to", folder / f"{FILE}.pth"],
        ["import", folder / f"{FILE}.pth", "--run", folder / f"imported {FILE}", "--heads", 4],
        ["tiers", model],
        ["fuzziness", model],
        ["bench", model, "--batch", 1, "--runs", 6, "--seconds", 0.1],
        ["prune", model, "--method", "eap", "--keep", ".5", "--to", folder / f"pruned {FILE}", "--images", 8],
        ["subset", model, "--range", "0:4"],
    ):
        told(*command)


def test_campaigns(campaign: Path, model: Path, folder: Path) -> None:
    for command in (
        ["campaign", "show", campaign],
        ["campaign", "status", campaign],
        ["campaign", "compare", campaign, campaign],
        ["campaign", "ber", campaign, "--rates", "1e-3", "--repeats", 2],
        ["fault", "replay", campaign, 0],
        ["sweep", campaign, "--atol", "1e-6,1e-3", "--noise", "twin"],
        ["report", campaign],
        ["rank", model, "--of", "head", "--by", "measured", "--campaign", campaign],
        ["rank", model, "--of", "head", "--validate", campaign, "--picture", folder / f"{FILE}.png", "--images", 8],
        ["tradeoff", model, "--campaign", campaign, "--to", folder / f"to {FILE}", "--runs", 6, "--seconds", 0.1],
    ):
        told(*command)
    for command in (["show", campaign], ["status", campaign], ["compare", campaign, campaign]):
        in_json("campaign", *command)
    for page in (campaign / "report.html", folder / f"to {FILE}" / "tradeoff.html"):
        text = page.read_text()
        assert not OBEYED.search(text)
        assert "[red]" in text


def test_errors(folder: Path, campaign: Path) -> None:
    weights = folder / f"keys {FILE}.pth"
    torch.save({f"blocks.0.{HOSTILE}": torch.zeros(2)}, weights)
    for command, code in (
        (["import", weights, "--run", folder / "none"], 1),
        (["import", folder / "none", "--run", folder / "nowhere"], 2),
        (["campaign", "show", folder], 2),
        (["campaign", "run", folder / "none.toml"], 2),
        (["campaign", "run", folder / f"{FILE}.toml", "--set", f"engine.{HOSTILE}=1"], 2),
        (["campaign", "new", HOSTILE], 2),
        (["fault", "replay", campaign, 0, "--image", HOSTILE], 2),
        (["rank", campaign, "--by", HOSTILE], 2),
        ([HOSTILE], 2),
        (["--" + HOSTILE], 2),
    ):
        assert told(*command, exit_code=code).count("\n") == 1


def test_tensors(folder: Path) -> None:
    """Unrecognised tensors keep their names; a node that no engine runs is named by ONNX Runtime itself."""
    shape: list[str | int | None] = ["batch", 4]
    nodes = [
        helper.make_node("Relu", ["in"], [HOSTILE], name=HOSTILE),
        helper.make_node("Add", [HOSTILE, f"weight {HOSTILE}"], ["out"]),
    ]
    weight = helper.make_tensor(f"weight {HOSTILE}", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    taken, given = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("in", "out"))
    graph = helper.make_graph(nodes, HOSTILE, taken, given, [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file = folder / f"{FILE}.onnx"
    onnx.save(proto, str(file))
    assert SHOWN in told("instrument", file, "--sites", "all", "--to", folder / "twins")
    sites = in_json("instrument", file, "--sites", "all", "--to", folder / "twins")["sites"]
    assert HOSTILE in {site["tensor"] for site in sites}
    proto.graph.node[0].op_type = HOSTILE
    onnx.save(proto, str(file))
    assert told("instrument", file, exit_code=1).count("\n") == 1
