"""What `testbed.testing` offers to tools."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import testbed.testing
from testbed.campaign.files import RESULTS
from testbed.testing import InstrumentedModel, PortFeed, ReferenceModel, open_campaign, outcome_judges, time_in_turns
from tests.support.campaigns import TINY


def test_every_name_loads_from_where_type_checkers_see_it() -> None:
    tree = ast.parse(Path(testbed.testing.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("testbed.")
        for alias in node.names
    }
    for name, module in seen.items():
        assert getattr(testbed.testing, name) is getattr(import_module(str(module)), name)
    assert {*seen} == {*testbed.testing.__all__}
    assert all(getattr(testbed.testing, name).__doc__ for name in testbed.testing.__all__)
    assert all(name in testbed.testing.__doc__ for name in testbed.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testbed.testing.nothing  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, testbed.testing; print([n for n in ('torch', 'onnx', 'numpy', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_reference_model_is_what_its_onnx_file_computes(tmp_path: Path) -> None:
    import torch

    reference = ReferenceModel.random("digits", seed=3)
    images = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        logits = reference.module(torch.from_numpy(images)).numpy()
    made = InstrumentedModel.of_onnx(reference.onnx(), most_ports=3)
    assert len(made.sites.ports) == 3
    with made.open_twin("torch") as twin:
        outputs = twin.run(made.feeds(images))
    np.testing.assert_allclose(outputs[made.output_name], logits, atol=1e-5)
    folder = reference.write_run(tmp_path / "run", "digits")
    again = ReferenceModel.of_run(folder)
    assert again.config == reference.config
    assert all(torch.equal(a, b) for a, b in zip(again.module.parameters(), reference.module.parameters(), strict=True))


def test_live_words_are_what_the_elements_held() -> None:
    made = InstrumentedModel.of_onnx(ReferenceModel.random("digits").onnx())
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    two = np.full(2, 0x40000000, np.uint32)
    feed = PortFeed.writing(made.port_numbers([made.output_name] * 2), np.array([0, 4]), two)
    with made.open_plain("torch") as plain, made.open_twin("torch") as twin:
        golden = plain.run({made.input_name: images})[made.output_name]
        faulty = twin.run(made.feeds(images, feed))
    held = made.live_words(faulty, feed)[:, 0].view(np.float32)
    np.testing.assert_array_equal(held, golden[[0, 1], [0, 4]])
    np.testing.assert_array_equal(faulty[made.output_name][[0, 1], [0, 4]], np.full(2, 2, np.float32))


def test_flips_of_a_prepared_campaign_are_the_campaigns_rows(tiny_run: Path, tmp_path: Path) -> None:
    rows = pa.parquet.read_table(tiny_run / RESULTS).to_pylist()
    flips = [
        r for r in rows if (r["target"], r["where"], r["op"], r["pattern"]) == ("model", "activation", "flip", "single")
    ]
    flips = flips[:12]
    with open_campaign(testbed.load_spec(TINY), tmp_path / "run") as campaign:
        numbers = np.array([campaign.image_ids.index(row["image_id"]) for row in flips])
        prepared = campaign.flips(
            "model",
            "activation",
            [row["site"] for row in flips],
            np.array([row["index"] for row in flips]),
            np.array([row["bit"] for row in flips]),
            numbers,
        )
        outcomes = prepared.rows().column("outcome").cast(pa.string()).to_pylist()
        assert len(prepared.take(np.array([1, 2]))) == 2
        assert campaign.bare_engine()(2) == 2 * campaign.batch
    assert len(flips) == 12
    assert outcomes == [row["outcome"] for row in flips]


def test_judges_agree() -> None:
    rng = np.random.default_rng(0)
    golden = rng.standard_normal((3, 10)).astype(np.float32)
    row = np.array([0, 2, 1, 1])
    faulty = golden[row] + np.float32(1e-3)
    judges = outcome_judges()
    wanted = judges["numpy"](faulty, golden, row, np.full(4, 1e-4), 1e-4, [0.0, 1e-2])
    for name, judge in judges.items():
        found = judge(faulty, golden, row, np.full(4, 1e-4), 1e-4, [0.0, 1e-2])
        np.testing.assert_array_equal(found.max_abs_diff, wanted.max_abs_diff, err_msg=name)


def test_calls_take_turns() -> None:
    order: list[int] = []
    times = time_in_turns([lambda: order.append(0), lambda: order.append(1)], seconds=1e-6, runs=6)
    assert [len(samples) for samples in times.samples_ms] == [6, 6]
    assert times.ratios[0].value == 1
    assert sorted(order[-2:]) == [0, 1]
