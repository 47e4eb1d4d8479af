"""Recording the golden: what is in the files, and which changes are refused by name."""

import json
import logging
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.data import Collection, Examples, load, register, registry
from testbed.golden.recorded import open_golden
from testbed.golden.recording import module_name, record_golden
from testbed.models.runs import DataSource, write_model_run

from .conftest import sharp_model

ATTENTION = "block.0.attn"
LOGITS_FILE, IMAGES_FILE = "golden/logits.npy", "golden/images.json"


def arrays(golden, module=ATTENTION):
    return golden.logits, golden.array(golden.file(module, 0)), golden.array(golden.file(module, 1))


@pytest.mark.parametrize("batch", [719, 64, 7])
def test_streaming_equals_the_whole_in_memory(model_run, batch):
    model, test = sharp_model(), load("digits").test
    golden = record_golden(model_run(), batch=batch)
    with torch.no_grad():
        pixels = torch.from_numpy(test.batch(range(len(test))))
        stream = model.embedded(pixels)
        hidden = model.get_submodule("block.0.norm1")(stream)
        expected = model(pixels), hidden, model.get_submodule("block.0.attn")(hidden)
    for found, wanted in zip(arrays(golden), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)
    assert golden.ids == test.ids
    assert np.array_equal(golden.labels, test.labels)
    assert golden.accuracy == np.mean(expected[0].argmax(1).numpy() == test.labels)
    assert 0.02 < golden.accuracy < 0.3


def test_a_range_is_those_images_of_the_whole(model_run):
    path = model_run()
    whole = [np.array(a) for a in arrays(record_golden(path))]
    part = record_golden(path, images=(100, 130))
    assert (part.range, len(part)) == ((100, 130), 30)
    for found, wanted in zip(arrays(part), whole, strict=True):
        np.testing.assert_allclose(found, wanted[100:130], atol=2e-5)
    assert part.ids == load("digits").test.ids[100:130]


def test_a_number_is_a_choice_from_all_classes(model_run, by_class, caplog):
    path = model_run(data=by_class)
    whole = [np.array(a) for a in arrays(record_golden(path))]
    part = record_golden(path, images=40)
    test = part.split
    assert (len(part), part.range) == (40, None)
    assert list(part.classes.values()) == [4] * 10
    assert (np.diff(part.positions) > 0).all()
    for found, wanted in zip(arrays(part), whole, strict=True):
        np.testing.assert_allclose(found, wanted[part.positions], atol=2e-5)
    assert (part.ids, part.labels.tolist()) == (test.ids, test.labels.tolist())
    again = open_golden(path)
    assert (again.positions.tolist(), again.split.ids) == (part.positions.tolist(), part.ids)
    with pytest.raises(UsageError, match="720 images are asked for, and there are 719"):
        record_golden(path, images=720)


def test_images_of_one_class_and_accuracy_as_of_guessing_are_warned_of(model_run, by_class, caplog):
    path = model_run(data=by_class)
    record_golden(path, images=(0, 30), modules=[])
    assert "all 30 images are of one class, '0', of the data set's 10" in caplog.text
    caplog.clear()
    golden = record_golden(path, modules=[])
    assert "one class" not in caplog.text
    told = f"accuracy {100 * golden.accuracy:.2f} % "
    assert told in caplog.text
    assert "no more than guessing gives" in caplog.text


def test_any_module_can_be_named(model_run):
    golden = record_golden(model_run(), images=(0, 5), modules=["attention:2", "block:1", "block.1.mlp", "head"])
    assert golden.modules == ["block.2.attn", "block.1", "block.1.mlp", "head"]
    assert np.array_equal(golden.array(golden.file("head", 1)), golden.logits)
    assert golden.array(golden.file("block.1.mlp", 0)).shape == (5, 17, 32)
    only = record_golden(golden.run.folder.path, images=(0, 5), modules=[])
    assert only.modules == []
    with pytest.raises(UsageError, match=r"no module 'block\.0\.attn' .it has logits only.; record it with"):
        only.file(ATTENTION, 0)


def test_the_first_attention_is_the_first_there_is():
    model = sharp_model(heads=(0, 2, 2))
    assert module_name(model, "attention") == "block.1.attn"


def test_the_manifest_holds_the_hash_of_every_file(model_run):
    path = model_run()
    golden = record_golden(path)
    files = {f"golden/{file.name}" for file in (path / "golden").iterdir()}
    assert set(golden.hashes) == files == {LOGITS_FILE, IMAGES_FILE, *(golden.file(ATTENTION, i) for i in (0, 1))}
    assert all(sha256_file(path / file) == digest for file, digest in golden.hashes.items())


def test_the_same_again_is_not_recorded_again(model_run, monkeypatch):
    path = model_run()
    first = record_golden(path)
    monkeypatch.setattr("testbed.golden.recording.record_reference", lambda *a, **k: pytest.fail("recorded again"))
    assert record_golden(path).hashes == first.hashes


READERS = {
    LOGITS_FILE: lambda golden: golden.logits,
    IMAGES_FILE: lambda golden: golden.ids,
    "golden/block.0.attn.input.npy": lambda golden: golden.array(golden.file(ATTENTION, 0)),
    "golden/block.0.attn.output.npy": lambda golden: golden.array(golden.file(ATTENTION, 1)),
}


@pytest.mark.parametrize("file", READERS)
@pytest.mark.parametrize("damage", ["edited", "truncated", "missing"])
def test_a_damaged_file_is_refused_by_name_and_recorded_anew_on_request(model_run, file, damage):
    path = model_run()
    before = record_golden(path, images=(0, 20)).hashes
    content = (path / file).read_bytes()
    if damage == "missing":
        (path / file).unlink()
    else:
        (path / file).write_bytes(content[:-1] + b"~" * (damage == "edited"))
    with pytest.raises(StaleArtefact) as caught:
        READERS[file](open_golden(path))
    assert str(path / file) in str(caught.value)
    assert f"run `testbed golden {path}` again" in str(caught.value)
    assert record_golden(path, images=(0, 20)).hashes == before


def test_an_edited_model_is_refused(model_run):
    path = model_run()
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StaleArtefact, match=r"model\.safetensors was edited"):
        record_golden(path)


def test_a_golden_of_another_model_is_refused(model_run, tmp_path):
    path = model_run("a")
    record_golden(path, images=(0, 5))
    other = model_run("b", sharp_model(1))
    manifest = json.loads((path / "manifest.json").read_text())
    golden = manifest["stages"]["golden"]
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["stages"]["golden"] = golden
    (other / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    shutil.copytree(path / "golden", other / "golden")
    with pytest.raises(StaleArtefact, match="recorded of another model"):
        open_golden(other)


def test_the_order_of_the_classes_stays_with_the_run(model_run, caplog, monkeypatch):
    """Every later command has it from the run's record; a model of another order is warned of."""
    usual = record_golden(model_run("usual"))
    stated = tuple("9876543210")
    golden = record_golden(model_run("stated", data=DataSource("digits", classes=stated)))
    assert np.array_equal(golden.labels, 9 - usual.labels)
    source = open_golden(golden.run.folder.path).run.data
    assert source is not None
    assert source.classes == stated
    assert (open_golden(golden.run.folder.path).split.labels == golden.labels).all()

    trained = sharp_model()  # a tenth of its answers are right: make the labels its answers, and mix their order up
    answers = usual.logits.argmax(1)
    test = load("digits").test
    mixed = [str((3 * number + 1) % 10) for number in range(10)]
    names = np.array(mixed)[answers]

    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))

    @register("mixed")
    def mixed_up(_request):
        pixels = np.stack([test.pixels(position) for position in range(len(test))])
        return Collection(classes=list("0123456789"), test=Examples.from_arrays("m", pixels, names.astype(int)))

    record_golden(model_run("mixed", trained, data=DataSource("mixed", preprocess="digits")))
    told = [message for message in caplog.messages if "another order" in message]
    assert len(told) == 1
    assert "would be 100.00 % with 10 classes in another order: outputs 0 '1', 1 '4', 2 '7'" in told[0]


def test_images_that_changed_are_refused(tmp_path, model_run):
    images = np.random.default_rng(0).random((6, 8, 8)).astype(np.float32)
    parts: dict[str, Any] = {
        "images": images,
        "labels": np.arange(6) % 10,
        "classes": np.array([str(k) for k in range(10)]),
    }
    np.savez(tmp_path / "data.npz", **parts)
    golden = record_golden(model_run(data=DataSource(f"npz:{tmp_path}/data.npz")))
    assert len(open_golden(golden.run.folder.path).split) == 6
    parts["images"] = images[::-1]
    np.savez(tmp_path / "data.npz", **parts)
    with pytest.raises(StaleArtefact, match="no longer those recorded"):
        _ = open_golden(golden.run.folder.path).split


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"images": (0, 720)}, "range 0:720 does not fit; the test images are 0:719"),
        ({"images": (9, 9)}, "A must be below B"),
        ({"modules": ["block.0.attnn"]}, r"no module 'block\.0\.attnn'; attention modules: block\.0\.attn"),
        ({"modules": ["block"]}, "module 'block' takes no part"),
        ({"modules": ["attention:3"]}, "has 3 blocks"),
        ({"device": "gpu"}, "unknown device 'gpu'; use cpu, cuda"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_nothing(model_run, arguments, said):
    path = model_run()
    with pytest.raises(UsageError, match=said):
        record_golden(path, **arguments)
    assert [file for file in path.rglob("*") if "npy" in file.name] == []


def test_a_folder_without_data_or_with_other_data_is_refused(model_run):
    with pytest.raises(UsageError, match="names no data set; import the weights again with --data"):
        record_golden(model_run("a", data=None))
    with pytest.raises(UsageError, match="is for 7 classes, data set 'digits' has 10"):
        record_golden(model_run("b", sharp_model(classes=7)))


def test_a_golden_larger_than_the_disk_is_refused_at_once(model_run, monkeypatch, tmp_path):
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    usage = shutil.disk_usage("/")._replace(free=100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(TestbedError, match=r"needs 3\.\d MiB .*, where 97\.7 KiB are free; .*--logits-only"):
        record_golden(model_run())


def test_nan_logits_are_warned_of(model_run, caplog):
    model = sharp_model()
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    with caplog.at_level(logging.WARNING):
        logging.getLogger("testbed").propagate = True
        golden = record_golden(model_run(model=model), images=(0, 5))
    assert golden.accuracy == 0
    assert "5 image(s) hold NaN" in caplog.text


def test_a_campaign_is_read_but_not_written(campaign_run):
    golden = open_golden(campaign_run)
    assert golden.modules == [ATTENTION]
    assert golden.ids == load("digits", seed=5).test.ids
    assert golden.logits.shape == (len(golden), 10)
    assert record_golden(campaign_run).hashes == golden.hashes
    with pytest.raises(UsageError, match="campaign's folder"):
        record_golden(campaign_run, images=(0, 5))


def test_a_model_without_a_golden_says_what_to_run(model_run):
    path = model_run()
    with pytest.raises(StaleArtefact, match=f"run `testbed golden {path}` first"):
        open_golden(path)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """4,000 images record 280 MB; only batches of it may ever be held."""
    import subprocess
    import sys

    torch.manual_seed(0)
    images = np.zeros((4000, 8, 8), np.uint8)
    names = np.array([str(k) for k in range(10)])
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(4000) % 10, classes=names)
    model = sharp_model(width=512, head_width=16)
    source = DataSource(f"npz:{tmp_path}/data.npz")
    write_model_run(tmp_path / "run", model, stage="import", name="wide", made_from={}, data=source)
    code = (
        "import resource, sys; from pathlib import Path; from testbed.golden.recording import record_golden;"
        "record_golden(Path(sys.argv[1]), images=(0, int(sys.argv[2])));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (250, 4000):
        command = [sys.executable, "-c", code, str(tmp_path / "run"), str(count)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert (tmp_path / "run/golden/block.0.attn.output.npy").stat().st_size > 130e6
    assert peaks[1] < 1.1 * peaks[0]
