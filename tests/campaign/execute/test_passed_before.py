"""Gates that were passed before are not run again on the same engine, and all of them are on one that does otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.campaign.evaluate.weights import in_place
from testbed.campaign.execute import checks, gates
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.pipeline import Campaign
from testbed.campaign.prepare import row_gate
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.reuse.reuse import Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import GateFailed
from testbed.core.folder.runfolder import RunFolder
from tests.support.wrapped_runners import PassingRunner

PLACES = ("model.activation", "model.weight", "attention.activation", "attention.weight")
NAMES = {f"{gate}.{place}" for gate in ("rows", "zero-fault", "evaluation") for place in PLACES} | {
    "weights.model.weight",
    "weights.attention.weight",
}


class Again:
    """Passes the gates of the tiny campaign, as a new campaign that shares a cache does."""

    def __init__(self, path: Path, spec: CampaignSpec, cache: Path) -> None:
        self.path, self.spec, self.cache = path, spec, cache

    def __call__(self, spec: CampaignSpec | None = None, anew: tuple[str, ...] = ()) -> GateFacts:
        with self.campaign(spec or self.spec, anew) as campaign:
            return campaign.gate()

    @contextmanager
    def campaign(self, spec: CampaignSpec, anew: tuple[str, ...] = ()) -> Iterator[Campaign]:
        folder = RunFolder.existing(self.path)
        for stage in ("gates", "plan", "execute", "summary"):
            folder.manifest["stages"].pop(stage, None)
        reuse = Reuse(self.cache, frozenset(anew), spec.engine.backend)
        with ExitStack() as stack:
            yield Campaign(Preparation(spec, folder, reuse=reuse), stack)


@pytest.fixture
def again(tiny_copy: Path, tiny_spec: CampaignSpec, tmp_path: Path) -> Again:
    """The cache is empty."""
    return Again(tiny_copy, tiny_spec, tmp_path / "cache")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the costly gates were run."""
    counts = dict.fromkeys(("row_influence", "weight_gate_of", "prove_activations", "prove_weights"), 0)

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return real(*arguments, **options)

        return count

    for name in counts:
        monkeypatch.setattr(gates, name, counting(name, getattr(gates, name)))
    return counts


def test_gates_that_were_passed_are_not_run_again(again: Again, counted: dict[str, int]) -> None:
    first = again()
    assert counted == {"row_influence": 4, "weight_gate_of": 2, "prove_activations": 2, "prove_weights": 2}
    assert first.cache == {}
    second = again()
    assert counted == {"row_influence": 4, "weight_gate_of": 2, "prove_activations": 2, "prove_weights": 2}
    assert set(second.cache) == NAMES
    for note in second.cache.values():
        assert (again.cache / "prepared" / note.key / "entry.json").is_file()
        assert note.made[:2] == "20"
        assert note.versions["onnxruntime-gpu" if "onnxruntime-gpu" in note.versions else "onnxruntime"]
    (line,) = second.notes
    assert line.startswith(f"14 results are taken from the cache, as passed on {note.date} (rows, weights, zero-fault,")
    unlike = {"cache", "notes"}
    assert second.model_dump(exclude=unlike) == first.model_dump(exclude=unlike)


def test_they_are_run_again_where_that_is_asked_for(again: Again, counted: dict[str, int]) -> None:
    first, runs = again(), dict(counted)
    second = again(anew=("gates", "plan"))
    assert counted == {name: 2 * count for name, count in runs.items()}
    assert second == first
    assert set(again().cache) == NAMES


def test_other_settings_are_other_gates(again: Again, tiny_spec: CampaignSpec) -> None:
    """Each gate is passed again where something changes that it depends on, and only then."""
    again()
    more = tiny_spec.model_copy(update={"gates": tiny_spec.gates.model_copy(update={"zero_fault_rows": 80})})
    assert NAMES - set(again(more).cache) == {"zero-fault.model.activation", "zero-fault.attention.activation"}
    section = tiny_spec.faults[0].model_copy(update={"sites": ("head",)})
    fewer = tiny_spec.model_copy(update={"faults": (section, *tiny_spec.faults[1:])})
    assert NAMES - set(again(fewer).cache) == {"zero-fault.model.activation", "evaluation.model.activation"}
    whole = tiny_spec.model_copy(update={"engine": tiny_spec.engine.model_copy(update={"evaluation": "whole"})})
    assert NAMES - set(again(whole).cache) == {f"evaluation.{place}" for place in PLACES}
    assert again(tiny_spec.model_copy(update={"seed": 43})).cache == {}
    looser = tiny_spec.model_copy(update={"tolerance": tiny_spec.tolerance.model_copy(update={"rtol": 1e-2})})
    assert set(again(looser).cache) == NAMES  # no gate judges by it


@pytest.mark.parametrize("name", ["processor", "library_versions"])
def test_another_machine_or_library_takes_nothing(again: Again, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from testbed.campaign.reuse import made_by

    again()
    monkeypatch.setattr(made_by, name, lambda: {"another": "1"})
    assert again().cache == {}


# ---- the same entry, and an engine that does something else all the same


class OtherBits(PassingRunner):
    """A processor that rounds otherwise: within every bound, and the same each time."""

    def run(self, feeds: Any) -> dict[str, NDArray]:
        outputs = super().run(feeds)
        if "head" in outputs:
            with np.errstate(all="ignore"):
                outputs["head"] = outputs["head"] * np.float32(1 + 2**-22)
        return outputs


class OtherArmed(PassingRunner):
    """An engine whose rows differ in the last bits where a port is armed, and nowhere else."""

    def run(self, feeds: Any) -> dict[str, NDArray]:
        outputs = super().run(feeds)
        if "head" in outputs and "fault_site" in feeds:
            armed = (feeds["fault_site"] >= 0).any(axis=1)
            with np.errstate(all="ignore"):
                outputs["head"][armed] *= np.float32(1 + 2**-20)
        return outputs


class Deaf(PassingRunner):
    """An engine that computes with a copy of its weights."""

    def weight(self, tensor: str) -> NDArray:
        return np.array(super().weight(tensor))


def opening(monkeypatch: pytest.MonkeyPatch, wrapper: type[PassingRunner]) -> None:
    real = Workplace.open
    monkeypatch.setattr(Workplace, "open", lambda place, request: wrapper(real(place, request)))


def test_other_golden_bits_have_all_gates_run(
    again: Again, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again()
    runs = dict(counted)
    opening(monkeypatch, OtherBits)
    with caplog.at_level(logging.WARNING):
        facts = again()
    assert facts.cache == {}
    assert all(counted[name] == 2 * runs[name] for name in runs)
    lines = [line for line in warnings(caplog) if "cache" in line]
    assert len(lines) == 1
    assert "the engine of model.activation gives other golden bits than on 20" in lines[0]
    assert lines[0].endswith("what the cache holds of this engine is not used, and all gates are run")


def test_zero_fault_rows_that_are_not_golden_have_all_gates_run(
    again: Again, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again()
    opening(monkeypatch, OtherArmed)
    with caplog.at_level(logging.WARNING), pytest.raises(GateFailed, match=r"64 of \d+ rows armed with a fault that"):
        again()
    assert "zero-fault rows of model.activation are not golden here" in warnings(caplog)[0]
    batch = RunFolder.existing(again.path).manifest["stages"]["tune"]["facts"]["batch"]
    assert batch == 1  # as the gates without a cache try in the end


def test_a_weight_that_is_not_heard_has_all_gates_run(
    again: Again, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    again()
    opening(monkeypatch, Deaf)
    with caplog.at_level(logging.WARNING), pytest.raises(GateFailed, match="was left out"):
        again()
    assert "model.weight: weight block.0.mlp.fc1.weight can be changed without any effect" in warnings(caplog)[0]


def test_gates_that_do_not_hold_are_not_kept(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "failing", lambda deviations: iter(["a bound"]))
    monkeypatch.setattr(gates, "failing", lambda deviations: iter(["a bound"]))
    with pytest.raises(GateFailed, match="a bound"):
        again()
    assert not again.cache.exists()


def test_rows_that_influence_each_other_are_known_to(
    again: Again, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a campaign runs one row at a time is taken from the cache as well, with the gates of that batch."""
    monkeypatch.setattr(gates, "row_influence", lambda engine, seed: row_gate.LOUD)
    first = again()
    assert first.notes == [f"batch 1 instead of 16: {row_gate.LOUD}"]
    monkeypatch.setattr(gates, "row_influence", lambda engine, seed: "")
    folder = RunFolder.existing(again.path)
    folder.manifest["stages"]["tune"]["facts"] = {"batch": 16, "threads": 1, "unit_rows": 64}
    folder.save()
    second = again()
    assert second.notes[0] == f"batch 1 instead of 16: {row_gate.LOUD}"
    assert set(second.cache) == NAMES - {f"rows.{place}" for place in PLACES[1:]}


def test_left_out_weights_stay_left_out(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    real = in_place.heard
    with monkeypatch.context() as patched:
        patched.setattr(in_place, "heard", lambda engine, site: site.name != "head.bias" and real(engine, site))
        patched.setattr(in_place, "equal_outputs", lambda one, other: False)
        first = again()
    second = again()
    assert "weights.model.weight" in second.cache
    assert second.left_out("model") == first.left_out("model") == {"head.bias": in_place.UNHEARD}
