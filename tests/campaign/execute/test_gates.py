"""What must hold before a fault is run: each gate passes on a sound engine, and fails on the defect it is there for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.evaluate.weights import in_place as weight_gate
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.execute.checks import Bounds, failing, parity, zero_fault, zero_fault_slice
from testbed.campaign.execute.faults import ActivationFaultRunner
from testbed.campaign.execute.worker import fault_runner_for
from testbed.campaign.files import RESULTS, STORE
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.pipeline import Campaign
from testbed.campaign.prepare import row_gate
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.results.store import discard_log
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.errors import GateFailed, TestbedError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.runfolder import RunFolder
from tests.support.wrapped_runners import PassingRunner


@pytest.fixture
def preparation(tiny_copy: Path, tiny_spec: CampaignSpec) -> Preparation:
    return Preparation(tiny_spec, RunFolder.existing(tiny_copy))


@pytest.fixture
def campaign(preparation: Preparation) -> Iterator[Campaign]:
    with ExitStack() as stack:
        yield Campaign(preparation, stack)


def forget_gates(folder: RunFolder) -> None:
    for stage in ("gates", "plan", "execute", "summary"):
        folder.manifest["stages"].pop(stage, None)


def tamper(path: Path, tensor: str, change: float) -> None:
    """Adds ``change`` to one weight of an ONNX file."""
    proto = onnx.load(path)
    (stored,) = (i for i in proto.graph.initializer if i.name == tensor)
    array = np.array(numpy_helper.to_array(stored))
    array.reshape(-1)[0] += change
    stored.CopyFrom(numpy_helper.from_array(array, tensor))
    onnx.save(proto, path)


def test_a_sound_engine_passes(campaign: Campaign) -> None:
    forget_gates(campaign.folder)
    facts = campaign.gate()
    assert facts.zero_fault.mismatches == 0
    weights = len(campaign.preparation.table("model").select("weight", ["*.fc1.weight", "head.bias"]))
    attention = len(campaign.preparation.table("attention").select("weight", ["*"]))
    assert facts.zero_fault.rows == 2 * 64 + (weights + attention) * 6
    assert facts.drift.max_abs_diff <= facts.drift.bound == 1e-5
    assert {(found.target, found.pair) for found in facts.parity} >= {
        (target, pair) for target in ("model", "attention") for pair in ("torch-plain", "plain-twin")
    }
    assert all(found.top1_agreement == 1 for found in facts.parity if found.target == "model")


def test_a_twin_that_computes_something_else_is_stopped(campaign: Campaign) -> None:
    forget_gates(campaign.folder)
    tamper(campaign.folder / "model.twin.onnx", "head.bias", 0.01)
    with pytest.raises(GateFailed, match=r"model: plain-twin differ by 0\.01, above gates\.drift_max_abs") as caught:
        campaign.gate()
    assert caught.value.exit_code == 3
    assert "gates" not in campaign.folder.manifest["stages"]


def test_a_file_that_is_not_the_model_is_stopped(campaign: Campaign) -> None:
    forget_gates(campaign.folder)
    for name in ("model.onnx", "model.twin.onnx"):
        tamper(campaign.folder / name, "head.bias", 0.01)
    with pytest.raises(GateFailed, match=r"model: torch-plain differ by 0\.01, above gates\.parity_max_abs"):
        campaign.gate()


def test_a_tampered_twin_is_refused_by_the_whole_campaign_too(
    tiny_copy: Path, tiny_spec: CampaignSpec, run_spec: Any
) -> None:
    """As a user would see it, who has made the manifest agree with the tampered file."""
    tamper(tiny_copy / "attention.twin.onnx", "block.0.attn.proj.bias", 0.5)
    folder = RunFolder.existing(tiny_copy)
    outputs = folder.manifest["stages"]["instrument.attention"]["outputs"]
    outputs["attention.twin.onnx"] = sha256_file(tiny_copy / "attention.twin.onnx")
    forget_gates(folder)
    folder.save()
    with pytest.raises(GateFailed, match="attention: plain-twin"):
        run_spec(tiny_spec, tiny_copy)
    assert not (tiny_copy / "store").exists()


def test_a_bound_that_is_too_tight_fails() -> None:
    ones = np.ones((2, 3))
    pairs = [("torch-plain", np.zeros((2, 3)), np.full((2, 3), 2e-6)), ("plain-twin", ones, ones)]
    assert not list(failing(parity(pairs, "model", Bounds("fp32", 2e-6, 1e-9))))
    (told,) = failing(parity(pairs, "model", Bounds("fp32", 1e-6, 1e-9)))
    assert "torch-plain differ by 2e-06, above gates.parity_max_abs = 1e-06" in told


def test_an_output_that_is_nan_on_one_side_fails() -> None:
    pair = ("plain-twin", np.zeros((2, 3)), np.array([[0, 0, 0], [0, np.nan, 0]]))
    assert len(list(failing(parity([pair], "model", Bounds("fp32", 1e9, 1e9))))) == 1


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 0.2), ("bf16", 1.0), ("int8", 5.0)])
def test_bounds_that_are_not_stated_go_by_precision_and_by_the_size_of_the_outputs(
    precision: str, allowed: float
) -> None:
    for off, complaints in ((0.99 * allowed, 0), (1.01 * allowed, 1)):
        outputs = np.array([[10.0, 0.0]])
        records = parity([("torch-plain", outputs, outputs - [[0, off]])], "model", Bounds(precision))
        assert len(list(failing(records))) == complaints


def test_all_gates_that_fail_are_told_at_once(campaign: Campaign) -> None:
    forget_gates(campaign.folder)
    tamper(campaign.folder / "model.onnx", "head.bias", 0.01)
    tamper(campaign.folder / "attention.twin.onnx", "block.0.attn.proj.bias", 0.5)
    with pytest.raises(GateFailed) as caught:
        campaign.gate()
    for part in ("model: torch-plain", "model: plain-twin", "attention: plain-twin"):
        assert part in str(caught.value)


def test_the_accuracy_gate_stops_before_anything_is_exported(
    tiny_values: dict[str, Any], tmp_path: Path, run_spec: Any, tiny_run: Path
) -> None:
    """The trained model is in the cache: `tiny_run` put it there."""
    tiny_values["gates"]["test_accuracy"] = 0.999
    with pytest.raises(
        GateFailed, match=r"test accuracy 0\.\d+ is below gates\.test_accuracy 0\.999; train longer"
    ) as e:
        run_spec(parse_spec(tiny_values), tmp_path / "run")
    assert e.value.exit_code == 3
    assert not (tmp_path / "run" / "model.onnx").exists()


# ---- engines with a defect


def test_no_weight_of_a_sound_engine_is_left_out(campaign: Campaign) -> None:
    forget_gates(campaign.folder)
    weights = campaign.gate().weights
    assert set(weights) == {"model", "attention"}
    for target, found in weights.items():
        assert found.left_out == []
        assert 0 < found.compared <= found.tensors, target


def test_weights_left_out_are_not_planned_and_are_told(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, run_spec: Any, tiny_spec: CampaignSpec
) -> None:
    """As where the engine holds a copy of one of them."""
    real = weight_gate.heard
    monkeypatch.setattr(weight_gate, "heard", lambda engine, site: site.name != "head.bias" and real(engine, site))
    monkeypatch.setattr(
        weight_gate, "equal_outputs", lambda one, other: False
    )  # a rebuilt engine has other bits: no comparison
    campaign.folder.redo("gates", list(campaign.folder.manifest["stages"]))
    campaign.folder.save()
    discard_log(campaign.folder / STORE)
    summary = run_spec(tiny_spec, campaign.folder.path)
    assert [(each.target, each.site) for each in summary.left_out] == [("model", "head.bias")]
    assert summary.left_out[0].reason == weight_gate.UNHEARD
    sites = pq.read_table(campaign.folder / RESULTS).filter(pc.equal(pc.field("where"), "weight"))["site"]
    assert "head.bias" not in set(sites.to_pylist())
    assert "block.0.mlp.fc1.weight" in set(sites.to_pylist())


def test_a_section_that_has_nothing_left_to_inject_is_refused(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_gates(campaign.folder)
    monkeypatch.setattr(weight_gate, "heard", lambda engine, site: engine.target != "attention")
    with pytest.raises(GateFailed, match=r"every weight of target 'attention' that .* names was left out"):
        campaign.gate()


def test_zero_faults_arm_the_ports_at_many_sites_and_images(campaign: Campaign) -> None:
    engine = campaign.engine("model", "activation")
    sites = engine.table.select("activation", ["*"])
    target_place = zero_fault_slice("model", "activation", sites, engine.images.ids, 64, seed=1)
    assert set(target_place.sites.names) == {site.name for site in sites}
    assert set(target_place.column("image_id")) == set(engine.images.ids)
    assert zero_fault(
        fault_runner_for(campaign.workplace, "model", "activation"),
        target_place,
        golden_words(campaign.workplace, target_place),
    ) == (
        64,
        0,
    )


def test_zero_fault_rows_that_differ_are_counted(campaign: Campaign) -> None:
    """The same path with one mask that does change a bit: as many mismatches as rows it touches."""
    engine = campaign.engine("model", "activation")
    target_place = zero_fault_slice(
        "model", "activation", engine.table.select("activation", ["head"]), engine.images.ids, 20, seed=1
    )
    masks = [np.array(mask) for mask in target_place.masks]
    masks[2][:3] = 1 << 30
    target_place.__dict__["masks"] = tuple(masks)
    runner = ActivationFaultRunner(engine, WholeTwin(engine), campaign.workplace.judge)
    assert zero_fault(runner, target_place, golden_words(campaign.workplace, target_place)) == (20, 3)


def test_a_machine_with_other_golden_bits_may_not_go_on(campaign: Campaign) -> None:
    campaign.folder.manifest["stages"]["gates"]["facts"]["goldens"]["model.activation"] = "0123456789abcdef"
    with pytest.raises(TestbedError, match="this machine's engine gives other golden bits"):
        campaign.gate()


# ---- rows that influence each other


class Sharing(PassingRunner):
    """An engine in which a row's outputs depend, in the last bit, on the largest number in the batch."""

    def __init__(self, runner: Any, noise: float = 0.0) -> None:
        super().__init__(runner)
        self.noise = noise

    def run(self, feeds: Any) -> dict[str, NDArray]:
        outputs = super().run(feeds)
        self.noise *= 2
        if "head" in outputs and len(outputs["head"]) > 1:
            loudest = np.abs(np.nan_to_num(outputs["head"], nan=3e38)).max()
            outputs["head"] = outputs["head"] * np.float32(1 + 1e-6 * (loudest > 1e3)) + np.float32(self.noise)
        return outputs


def test_rows_that_only_faults_let_influence_each_other_are_run_alone(
    tiny_copy: Path, tiny_spec: CampaignSpec, run_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden rows are equal in every company: only beside struck ones a row changes."""
    folder, real = RunFolder.existing(tiny_copy), Workplace.open
    folder.redo("gates", list(folder.manifest["stages"]))
    folder.save()
    discard_log(folder / STORE)

    def shared(place: Workplace, request: Any) -> Any:
        runner = real(place, request)
        return Sharing(runner) if b"head" in request.onnx and b"fault_site" in request.onnx else runner

    monkeypatch.setattr(Workplace, "open", shared)
    summary = run_spec(tiny_spec, tiny_copy)
    assert summary.engine.batch == 1
    assert summary.notes == [f"batch 1 instead of 16: {row_gate.BESIDE_FAULTS}"]


def test_only_the_same_batch_run_twice_is_called_not_deterministic(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_gates(campaign.folder)
    engine = campaign.engine("model", "activation")
    assert len(engine.golden) == 6
    engine.runner = Sharing(engine.runner, noise=1e-3)
    with pytest.raises(GateFailed, match="the same batch, run twice, gives other bits"):
        campaign.gate()


def test_exclusions_that_no_site_answers_to_are_told(campaign: Campaign) -> None:
    """One spec serves precisions whose files have other weights."""
    forget_gates(campaign.folder)
    section = campaign.spec.faults[1]
    faults = list(campaign.spec.faults)
    faults[1] = section.model_copy(update={"sites": (*section.sites, "!head.bias.scale")})
    campaign.spec = campaign.workplace.spec = campaign.spec.model_copy(update={"faults": tuple(faults)})
    assert campaign.gate().notes == [
        "'!head.bias.scale' excludes no weight of model: there is none of that name in fp32"
    ]
