"""A protected folder is a model: what is deployed of it is the protected file, its weights and goldens the plain one's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testbed.bench.latency import Question, measure
from testbed.bench.timing import Budget
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.run_files import CAMPAIGN_FOLDER, MODEL_FOLDER, described
from testbed.core.protected import protected_file
from testbed.core.site import Site
from testbed.data import load
from testbed.golden.deploy import deploy
from testbed.golden.recording import record_golden
from testbed.instrument.table import site_table
from testbed.models.runs import MODEL, ModelRun, open_model_run
from testbed.prune.run import PruneRequest, prune_runs
from tests.support.protected import CHECKED, CLIPPED, bounds_of, plain_files, protect, protected_run, tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ModelRun:
    folder = tmp_path_factory.mktemp("protected")
    model = tiny_model()
    plain = plain_files(model, folder)["fp32"]
    checks = bounds_of(plain, CHECKED, load("digits").test.batch(slice(None)))
    return protected_run(folder / "run", model, {"fp32": protect(plain, clips={CLIPPED: 8.0}, checks=checks)})


def test_it_says_in_which_precisions_it_was_protected(run: ModelRun) -> None:
    assert open_model_run(run.folder.path).protected == ("fp32",)
    assert run.protected_path("model", "fp32") == run.folder / "protected/model.fp32.onnx"
    for folder in (MODEL_FOLDER, CAMPAIGN_FOLDER):
        entry = described("protected/model.fp32.onnx", folder)
        assert entry is not None
        assert entry.name == "protected/model.PRECISION.onnx"


@pytest.mark.parametrize(
    ("target", "precision", "says"),
    [
        ("model", "fp16", "was protected in fp32, not in fp16; protect the plain model in fp16 too"),
        ("attention", "fp32", "take target model, or the folder of the plain model for attention"),
        ("block:0", "fp32", "checks are of the whole of it"),
    ],
)
def test_what_was_not_protected_is_refused_with_what_to_do(
    run: ModelRun, target: str, precision: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        run.protected_path(target, precision)


def test_an_edited_protected_file_is_refused_by_name(run: ModelRun, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder.path, tmp_path / "copy"))
    (copy / protected_file("fp32")).write_bytes(b"another")
    with pytest.raises(StaleArtefact, match=r"protected/model\.fp32\.onnx was edited"):
        open_model_run(copy).protected_path("model", "fp32")


def test_what_was_checked_is_what_is_exported_and_timed(run: ModelRun) -> None:
    golden = record_golden(run.folder.path)
    deployed = deploy(run.folder.path, "model", "fp32")
    file = run.folder / "protected/model.fp32.onnx"
    assert deployed.file == str(file)
    assert deployed.deployment_id == sha256_file(file)[:16]
    assert 0 < max(tier.max_abs_diff or 0 for tier in deployed.parity) < 1e-3  # of the plain model's golden
    assert len(golden) == deployed.images
    (row,) = measure([run.folder.path], Question(batches=(1,), budget=Budget(0, 0.1, 5)))
    assert row.deployment_id == deployed.deployment_id
    assert not list(run.folder.path.glob("*.onnx"))  # nothing else was exported


@pytest.mark.parametrize(("target", "precision"), [("model", "fp16"), ("attention", "fp32")])
def test_export_of_anything_else_says_what_to_do(run: ModelRun, target: str, precision: str) -> None:
    record_golden(run.folder.path)
    with pytest.raises(UsageError, match=r"protect the plain model in fp16|folder of the plain model"):
        deploy(run.folder.path, target, precision)


def test_weights_are_the_plain_models(run: ModelRun) -> None:
    assert sha256_file(run.folder / MODEL) == run.model_hash


def test_a_protected_model_is_not_pruned(run: ModelRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prune the plain one it was made from, then protect the result"):
        prune_runs(run.folder.path, [(PruneRequest("eap", 0.5), tmp_path / "pruned")])
    assert not (tmp_path / "pruned").exists()


def test_what_the_checks_add_are_sites_and_all_others_keep_their_names(run: ModelRun, tmp_path: Path) -> None:
    plain = site_table(plain_files(run.model, tmp_path)["fp32"], "model")
    protected = site_table((run.folder / "protected/model.fp32.onnx").read_bytes(), "model")
    added = {site.name: site for site in protected if site.name.startswith("protect.")}
    assert [site.name for site in protected if site.name not in added] == [site.name for site in plain]
    described = {name: (site.where, site.kind, site.block, site.shape) for name, site in added.items()}
    assert described == {
        "protect.range.block.0.mlp.gelu": ("activation", "protect.range", 0, protected["block.0.mlp.gelu"].shape),
        "protect.checksum.block.0.mlp.fc1": ("activation", "protect.checksum", 0, (1,)),
        "protect.checksum.block.0.mlp.residual": ("activation", "protect.checksum", 0, (1,)),
        "protect.checksum.block.0.mlp.residual.alarm": ("activation", "protect.checksum", 0, (1,)),
        "protect.flag.0": ("activation", "protect.flag", None, (1,)),
        "protect.flag.1": ("activation", "protect.flag", None, (1,)),
        "protect.range.block.0.mlp.gelu.low": ("weight", "protect.range", 0, ()),
        "protect.range.block.0.mlp.gelu.high": ("weight", "protect.range", 0, ()),
        "protect.checksum.block.0.mlp.fc1.bound": ("weight", "protect.checksum", 0, (1,)),
        "protect.checksum.block.0.mlp.residual.bound": ("weight", "protect.checksum", 0, (1,)),
        "protect.detected.half": ("weight", "protect.detected", None, (1,)),
    }
    assert Site("block.3.mlp.fc1", "activation", (1,)).block == 3
