"""``testbed classspace`` and `testbed.measure_class_space`: what people and scripts read, and what lies in the folder."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from testbed import measure_class_space
from testbed.core.folder.run_files import CLASS_SPACE_FOLDER
from testbed.data import load
from testbed.models.config import uniform
from testbed.models.runs import DataSource, open_model_run, write_model_run
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.identifiability import IdentifiabilityObserver
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.stream import observe
from tests.support.commands import answer_of, error_of, invoke

SMALL = ["--set", "heads=2", "--set", "mlp=8", "--set", "width=8", "--set", "head_width=4", "--set", "patch=4"]
FEW = ["--images", 60, "--baseline-images", 40, "--explain-images", 20, "--probe-images", 30, "--shots", 3]
TABLES = {
    "identifiability",
    "similarity_change",
    "residual_match",
    "class_value_agreement",
    "key_value_agreement",
    "perturbation",
    "explanation",
    "explanation_area",
    "probe",
}
PICTURES = {"identifiability", "branches", "memories", "perturbation", "explanation", "probe"}


def train(folder, *arguments):
    settings = ["--set", "batch=128", "--set", "select=last", *SMALL, *arguments]
    assert invoke("train", "digits", "--dataset", "digits", "--run", folder, "--epochs", 3, *settings).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train(tmp_path_factory.mktemp("classspace") / "vit")


@pytest.fixture(scope="module")
def studied(model, tmp_path_factory):
    """(folder, record) of all analyses."""
    to = tmp_path_factory.mktemp("classspace") / "out"
    return to, answer_of(invoke("classspace", model, *FEW, "--to", to, "--json"))


def test_every_analysis_writes_its_tables_and_pictures(studied):
    to, record = studied
    names = {path.name for path in to.iterdir()}
    memories = {"top_memories.csv", "memory_classes.csv"}
    assert names == {f"{t}.csv" for t in TABLES} | {f"{p}.png" for p in PICTURES} | memories | {"class_space.json"}
    assert {path.rpartition("/")[2] for path in record["files"]} == names
    assert {file.name for file in CLASS_SPACE_FOLDER} == names  # the reference lists them
    for picture in PICTURES:
        with Image.open(to / f"{picture}.png") as image:
            assert min(image.size) > 300
    assert json.loads((to / "class_space.json").read_text()) == {k: v for k, v in record.items() if k != "files"}
    for table in TABLES:
        rows = list(csv.DictReader((to / f"{table}.csv").read_text().splitlines()))
        assert [dict(row) for row in rows] == [
            {key: "" if value is None else str(value) for key, value in row.items()} for row in record[table]
        ]


def test_every_rate_has_its_images_and_its_interval(studied):
    _, record = studied
    assert record["left_out"] == {}
    for table in TABLES - {"class_value_agreement"}:
        assert record[table]
        for row in record[table]:
            assert row["images"] in (60, 40, 20, 30)
            assert row["low"] <= row["value"] <= row["high"]
    assert record["chance"] == {"identifiability": 0.55, "rate": 0.1}


def test_the_numbers_are_those_of_the_package(model, studied):
    _, record = studied
    vit, data = open_model_run(model).model, load("digits")
    observer = IdentifiabilityObserver(ClassProjection.of(vit))
    observe(vit, data.test.chosen(60, data.seed, "test images"), [observer])
    entry = observer.result().state(2, "mlp", "image")
    key = {"weights": "trained", "block": 2, "state": "mlp", "tokens": "image", "measure": "rate"}
    (row,) = [row for row in record["identifiability"] if key.items() <= row.items()]
    assert row["value"] == pytest.approx(entry.rate.value)
    assert row["high"] == pytest.approx(entry.rate.high)


def test_people_read_a_table_per_analysis(model, tmp_path):
    result = invoke("classspace", model, *FEW, "--to", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for words in ("class identifiability of cls", "memories", "perturbations", "projection_gradient", "linear probes"):
        assert words in result.stdout


def test_a_dry_run_says_what_would_run_and_writes_nothing(model, tmp_path):
    plan = answer_of(invoke("classspace", model, *FEW, "--to", tmp_path / "out", "--dry-run", "--json"))
    passes = {planned["analysis"]: (planned["images"], planned["passes"]) for planned in plan["analyses"]}
    assert passes["identifiability"] == (60, pytest.approx(1 + 40 / 60))
    assert passes["memories"] == (60, 0)
    assert passes["perturbation"] == (60, 3)
    assert passes["probe"] == (30, pytest.approx(1 + 30 / 30))
    assert not (tmp_path / "out").exists()
    assert "nothing is run" in invoke("classspace", model, "--dry-run").stdout


def test_only_what_is_asked_for_is_measured(model, tmp_path):
    asked = ["--analyses", "probe", "--positions", "0,2,pooled"]
    record = answer_of(invoke("classspace", model, *asked, *FEW, "--to", tmp_path, "--json"))
    assert {row["position"] for row in record["probe"]} == {0, 2, "pooled"}
    assert {path.name for path in tmp_path.iterdir()} == {"probe.csv", "probe.png", "class_space.json"}
    assert "identifiability" not in record


def test_where_a_large_model_is_probed_is_stated(model, tmp_path, monkeypatch):
    monkeypatch.setattr("testbed.sensitivity.class_space.probe.SUMS_BYTES", 5000)
    asked = ["--analyses", "probe", *FEW, "--to", tmp_path]
    positions = answer_of(invoke("classspace", model, *asked, "--dry-run", "--json"))["probe_positions"]
    assert positions[:2] == [0, "pooled"]
    assert len(positions) == 2  # of the five tokens
    assert "probes at positions 0, pooled" in invoke("classspace", model, *asked, "--dry-run").stdout
    result = invoke("classspace", model, *asked)
    assert "block, pooled" in " ".join(result.stdout.split())
    record = json.loads((tmp_path / "class_space.json").read_text())
    assert {row["position"] for row in record["probe"]} == set(positions)


def test_masks_add_the_object_and_its_surroundings(model, tmp_path):
    for image_id in load("digits").test.ids:
        mask = np.zeros((8, 8), np.uint8)
        mask[:4] = 255
        path = tmp_path / "masks" / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    asked = ["--analyses", "perturbation,identifiability", "--masks", tmp_path / "masks"]
    record = answer_of(invoke("classspace", model, *FEW, *asked, "--to", tmp_path / "out", "--json"))
    assert {row["tokens"] for row in record["identifiability"]} == {"cls", "image", "class", "context"}
    assert {row["perturbation"] for row in record["perturbation"]} == {
        "none",
        "self_only",
        "no_cls",
        "no_context",
        "no_class",
    }


def test_a_model_without_cls_is_studied_without_what_needs_it(tmp_path):
    folder = train(tmp_path / "vit", "--set", "cls_token=false", "--set", "pooling=mean")
    record = answer_of(invoke("classspace", folder, *FEW, "--to", tmp_path / "out", "--json"))
    assert {row["perturbation"] for row in record["perturbation"]} == {"none", "self_only"}
    assert {row["tokens"] for row in record["identifiability"]} == {"image"}
    line = error_of(
        invoke("classspace", folder, "--positions", "cls", "--analyses", "probe", "--to", tmp_path / "o"), 2
    )
    assert "no CLS token to probe" in line


def folder_of_images(path, classes, part=""):
    for label in range(classes):
        for number in range(4):
            file = path / part / f"class-{label}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 50 * label + number, np.uint8)).convert("RGB").save(file)
    return f"imagefolder:{path}"


def untrained(path, data, **changes):
    sizes = {"image": 8, "patch": 4, "channels": 3, "width": 8, "classes": 3, "head_width": 4, **changes}
    model = ViT(uniform(2, 2, 6, **sizes))
    write_model_run(path, model, stage="import", name="untrained", made_from={"seed": 0}, data=DataSource(data))
    return path


def test_probes_are_left_out_where_there_are_test_images_only(tmp_path):
    run = untrained(tmp_path / "run", folder_of_images(tmp_path / "images", 3))
    record = answer_of(invoke("classspace", run, "--to", tmp_path / "out", "--json"))
    assert "test images only" in record["left_out"]["probe"]
    assert "probe" not in record
    asked = invoke("classspace", run, "--analyses", "probe", "--to", tmp_path / "probe")
    assert "--data imagefolder:DIR/train" in error_of(asked, 2)
    assert not (tmp_path / "probe").exists()


def test_what_does_not_go_is_one_line(model, tmp_path):
    to = ["--to", tmp_path / "out"]
    assert "--to DIR" in error_of(invoke("classspace", model), 2)
    assert "'identifiability'" in error_of(invoke("classspace", model, "--analyses", "identifyability", *to), 2)
    assert "no list of token positions" in error_of(invoke("classspace", model, "--positions", "a", *to), 2)
    assert "no folder of masks" in error_of(invoke("classspace", model, "--masks", tmp_path / "none", *to), 2)
    assert "has no mask" in error_of(invoke("classspace", model, "--masks", tmp_path, *to), 2)
    assert "no token 99" in error_of(invoke("classspace", model, "--analyses", "probe", "--positions", "99", *to), 2)
    assert "training images, and a probe takes 5000" in error_of(
        invoke("classspace", model, "--analyses", "probe", "--shots", 5000, *to), 2
    )
    one_class = untrained(tmp_path / "one", folder_of_images(tmp_path / "single", 1), classes=1)
    assert "the model has one class" in error_of(invoke("classspace", one_class, *to), 2)
    assert not (tmp_path / "out").exists()


def test_from_python_it_is_the_same_as_frames(model, studied):
    _, record = studied
    space = measure_class_space(model, images=60, baseline_images=40, explain_images=20, probe_images=30, shots=3)
    assert space.identifiability.to_dict("records") == record["identifiability"]
    assert len(space.probes) == len(record["probe"])
    for frame in (
        space.similarity_change,
        space.residual_match,
        space.memories,
        space.key_value_agreement,
        space.perturbations,
        space.curves,
        space.areas,
    ):
        assert len(frame) > 0
    assert "in class space" in space._repr_html_()
    assert measure_class_space(model, images=20, analyses=["memories"]).probes.empty
