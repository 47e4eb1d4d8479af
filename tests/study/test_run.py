"""``testbed study`` on the digits: what is trained, what is in the folder, and what a kill leaves."""

import csv
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from testbed.data import load
from testbed.models.runs import open_model_run
from testbed.study import figures
from testbed.study.results import StudyReport
from testbed.train import evaluate
from testbed.train import runs as trained_runs
from tests.study.test_results import variant
from tests.support.commands import answer_of, error_of, invoke

TINY = [
    "image=8",
    "patch=4",
    "width=16",
    "heads=2",
    "depth=1",
    "mlp=16",
    "head_width=8",
    "batch=50",
    "learning_rate=0.01",
]
FILES = {"study.json", "study.csv", "study.png", "curves.csv", "curves.png", "attention_results.json", "manifest.json"}


def arguments(to, *more, name="attention", settings=TINY, seeds=2, images=120):
    changes = [word for setting in settings for word in ("--set", setting)]
    return ["study", name, "--dataset", "digits", "--epochs", 2, "--seeds", seeds, "--train-images", images,
            "--test-images", 200, *changes, "--to", to, *more]  # fmt: skip


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "attention"
    return folder, answer_of(invoke(*arguments(folder, "--json")))


def rows_of(table):
    return list(csv.DictReader(io.StringIO(table.read_text())))


def untimed(value):
    """The report without what another run of it may change."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in ("seconds", "to")}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def test_each_accuracy_is_that_of_the_model_in_its_folder_on_the_test_images(studied):
    folder, report = studied
    assert [entry["name"] for entry in report["variants"]] == ["softmax", "differential"]
    for entry in report["variants"]:
        for score in entry["scores"]:
            run = open_model_run(folder / score["folder"])
            assert run.model.config.attention == entry["name"]
            whole = load("digits", image=8, seed=score["seed"])
            chosen = whole.test.chosen(200, 0, "test images")
            assert score["test_accuracy"] == evaluate(run.model, chosen).accuracy
            assert entry["parameters"] == sum(parameter.numel() for parameter in run.model.parameters())
        assert entry["mean"] == pytest.approx(np.mean([score["test_accuracy"] for score in entry["scores"]]))
    assert (report["train_images"], report["test_images"], report["seeds"]) == (120, 200, [0, 1])


def test_validation_chooses_the_epoch(studied):
    folder, report = studied
    for entry in report["variants"]:
        for score in entry["scores"]:
            curves = rows_of(folder / score["folder"] / "curves.csv")
            best = max(curves, key=lambda row: (float(row["validation_accuracy"]), -float(row["validation_loss"])))
            assert (score["best_epoch"], score["epochs"]) == (int(best["epoch"]), 2)
            assert score["validation_accuracy"] == float(best["validation_accuracy"])


def test_the_folder_holds_tables_pictures_and_the_published_form(studied):
    folder, report = studied
    assert {path.name for path in folder.iterdir() if path.is_file()} == FILES | {".lock"}
    assert json.loads((folder / "study.json").read_text()) == {key: report[key] for key in report if key != "to"}
    expected = {entry["name"]: round(100 * entry["mean"], 4) for entry in report["variants"]}
    assert json.loads((folder / "attention_results.json").read_text()) == expected
    scores = [(row["variant"], int(row["seed"]), float(row["test_accuracy"])) for row in rows_of(folder / "study.csv")]
    assert scores == [
        (entry["name"], score["seed"], score["test_accuracy"])
        for entry in report["variants"]
        for score in entry["scores"]
    ]
    curves = rows_of(folder / "curves.csv")
    assert [(row["variant"], row["seed"], row["epoch"]) for row in curves] == [
        (name, seed, epoch) for name in ("softmax", "differential") for seed in "01" for epoch in "12"
    ]
    single = rows_of(folder / "runs/differential/seed-1/curves.csv")
    assert [row["validation_loss"] for row in curves[-2:]] == [row["validation_loss"] for row in single]
    for picture in ("study.png", "curves.png"):
        with Image.open(folder / picture) as image:
            assert image.width > 500


def test_the_same_command_again_changes_nothing_and_more_seeds_train_only_those(studied, monkeypatch):
    folder, report = studied
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = invoke(*arguments(folder, "--json"))
    assert answer_of(again) == report
    assert "epoch 1" not in again.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    more = invoke(*arguments(folder, "--json", seeds=3))
    assert more.stderr.count("epoch 1:") == 2
    extended = answer_of(more)
    assert [untimed(entry["scores"][:2]) for entry in extended["variants"]] == [
        untimed(entry["scores"]) for entry in report["variants"]
    ]
    assert [entry["n"] for entry in extended["variants"]] == [3, 3]
    assert answer_of(invoke(*arguments(folder, "--json"))) == report


def test_a_study_that_was_interrupted_goes_on_and_looks_at_the_test_images_once(studied, tmp_path, monkeypatch):
    _, report = studied
    tested = []  # the digits bring no test part: it is the seed's

    def counted(model, split, *more):
        tested.append(split.ids)
        if len(tested) == 3:
            raise KeyboardInterrupt
        return evaluate(model, split, *more)

    monkeypatch.setattr(trained_runs, "evaluate", counted)
    stopped = invoke(*arguments(tmp_path / "to"))
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith("error: interrupted; every finished epoch is kept; go on with the same command\n")
    assert not (tmp_path / "to" / "study.json").exists()
    done = invoke(*arguments(tmp_path / "to", "--json"))
    assert untimed(answer_of(done)) == untimed(report)
    assert done.stderr.count("epoch 1:") == 1  # the third was trained, but not tested; the fourth was not begun
    assert len(tested) == 1 + len([score for entry in report["variants"] for score in entry["scores"]])
    assert tested == [tested[0], tested[1], tested[0], tested[0], tested[1]]


def test_people_read_a_table_and_what_was_written(studied):
    folder, _ = studied
    shown = invoke(*arguments(folder)).stdout
    for text in (
        "study attention",
        "softmax",
        "differential",
        "95 % interval",
        "softmax - differential",
        "attention_results.json",
    ):
        assert text in shown
    assert "published" not in shown.replace("published    its sign", "").split("differences")[0]


def test_dry_run_says_what_and_writes_nothing(tmp_path):
    done = invoke(*arguments(tmp_path / "to", "--dry-run"))
    assert "would train 4 models: 2 variants of cifar10 on 2 seeds, 2 epochs each" in done.stdout
    assert "120 training, 24 validation, 200 test images" in done.stdout
    assert answer_of(invoke(*arguments(tmp_path / "to", "--dry-run", "--json")))["trainings"] == 4
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["patch", "position", "augmentation"])
def test_the_other_studies_train_on_the_digits(tmp_path, name):
    settings = [setting for setting in TINY if not (name == "patch" and setting.startswith("patch"))]
    report = answer_of(invoke(*arguments(tmp_path / "to", "--json", name=name, settings=settings, seeds=1, images=50)))
    assert len(report["variants"]) == len({entry["scores"][0]["folder"] for entry in report["variants"]})
    assert report["is_published_setting"] is False
    assert {pair["verdict"] for pair in report["differences"]} == {"undecided"}


def test_a_study_of_one_s_own_compares_with_what_its_file_says(tmp_path):
    file = tmp_path / "rate.toml"
    file.write_text("""
name = "rate"
preset = "digits"
dataset = "digits"
epochs = 1
train_images = 40
set = { heads = [2], mlp = [16], width = 16, head_width = 8, batch = 20 }
variants = [
  { name = "slow", set = { learning_rate = 1e-4 }, published = 0.4 },
  { name = "fast", set = { learning_rate = 1e-2 }, published = 0.5 },
]
""")
    shown = invoke("study", file, "--seeds", 2, "--to", tmp_path / "to")
    assert shown.exit_code == 0, shown.output
    assert "published %" in shown.stdout
    assert "published order: of 1 pairs" in shown.stdout
    assert set(json.loads((tmp_path / "to" / "results.json").read_text())) == {"slow", "fast"}


def test_another_study_does_not_overwrite(studied):
    folder, _ = studied
    before = (folder / "study.json").read_bytes()
    line = error_of(invoke(*arguments(folder, "--preprocess", "half")), 2)
    assert "holds another run" in line
    assert (folder / "study.json").read_bytes() == before


def test_a_model_that_was_edited_is_refused_by_name(studied, tmp_path):
    import shutil

    copy = shutil.copytree(studied[0], tmp_path / "copy")
    model = copy / "runs/softmax/seed-0/model.safetensors"
    model.write_bytes(model.read_bytes()[:-4])
    done = invoke(*arguments(copy))
    assert done.exit_code == 1
    assert "runs/softmax/seed-0/model.safetensors was edited or truncated" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "widht=3"], "--set: unknown key 'widht'; did you mean 'width'?"),
        (["--set", "attention=softmax"], "every variant of study 'attention' sets it"),
        (["--seeds", 0], "0 is not in the range"),
        (["--log", "mlflow"], "'mlflow' is not one of"),
        (["--dataset", "digit"], "unknown data set 'digit'"),
        (["--train-images", 9], "9 training images are too few for 10 classes"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(tmp_path, more, message):
    assert message in error_of(invoke(*arguments(tmp_path / "to", *more)), 2)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("published", [True, False])
def test_published_values_are_drawn_where_the_setting_is_the_published(tmp_path, monkeypatch, published):
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save_figure", lambda path, figure: drawn.append(figure))
    scores = (variant("a", [0.5, 0.6], 0.55), variant("b", [0.4, 0.5], 0.7))
    report = StudyReport("s", "", "digits", "p", "r", 2, 9, 9, 9, (0, 1), 0.95, published, scores, ())
    figures.write_scores_picture(tmp_path / "study.png", report)
    legend = drawn[0].axes[0].get_legend()
    assert legend is not None
    shown = {text.get_text() for text in legend.get_texts()}
    assert shown == {"mean, 95 % interval over seeds", "each seed"} | ({"published"} if published else set())
