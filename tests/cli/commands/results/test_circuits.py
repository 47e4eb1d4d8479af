"""``testbed circuits`` and `testbed.measure_circuits`: what people and scripts read, what is written, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testbed import measure_circuits
from testbed.core.folder.run_files import CIRCUITS_FOLDER
from testbed.golden.source import dataset_of
from testbed.models.config import uniform
from testbed.models.runs import DataSource, open_model_run, write_model_run
from testbed.models.vit import ViT
from tests.support.commands import answer, error_of, invoke

FEW = ("--images", 20, "--over", 30, "--chunks", 2, "--orders", 2, "--shares", ".25,.5")


@pytest.fixture(scope="module")
def studied(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    to = tmp_path_factory.mktemp("circuits") / "out"
    return to, answer("circuits", tiny_run, *FEW, "--edges", 3, "--to", to)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_file_is_written_and_listed(studied: tuple[Path, Any]) -> None:
    to, record = studied
    names = {path.name for path in to.iterdir()}
    assert {file.name for file in CIRCUITS_FOLDER} == names
    assert {path.rpartition("/")[2] for path in record["files"]} == names
    assert json.loads((to / "circuits.json").read_text()) == {k: v for k, v in record.items() if k != "files"}
    assert np.asarray(Image.open(to / "faithfulness.png").convert("L")).std() > 1


def test_tables_say_what_the_record_says(studied: tuple[Path, Any]) -> None:
    to, record = studied
    curves = {curve["by"]: curve for curve in record["curves"]}
    assert list(curves) == ["acdc", "eap", "eap-ig", "random"]
    for row in rows_of(to / "areas.csv"):
        curve = curves[row["by"]]
        for area in ("cpr", "cmd"):
            told = [float(row[area]), float(row[f"{area}_low"]), float(row[f"{area}_high"])]
            assert told == [curve[area][end] for end in ("value", "low", "high")]
            assert told[1] <= told[0] <= told[2]
    for curve in curves.values():
        shares, f = ([point[key] for point in curve["points"]] for key in ("share", "faithfulness"))
        assert (shares[0], shares[-1], f[0], f[-1]) == (0, 1, 0, 1)
        assert curve["cpr"]["value"] == pytest.approx(np.trapezoid(f, shares))
    points = [point for curve in curves.values() for point in curve["points"]]
    assert [float(row["faithfulness"]) for row in rows_of(to / "faithfulness.csv")] == [
        point["faithfulness"] for point in points
    ]
    scores = rows_of(to / "components.csv")
    assert {row["component"]: float(row["eap"]) for row in scores} == record["scores"]["eap"]


def test_edges_are_all_there_the_largest_first(studied: tuple[Path, Any], tiny_run: Path) -> None:
    to, record = studied
    edges = [edge for edge in record["edges"] if edge["by"] == "eap"]
    sizes = [abs(edge["score"]) for edge in edges]
    assert sizes == sorted(sizes, reverse=True)
    for name, score in record["scores"]["eap"].items():
        assert abs(sum(e["score"] for e in edges if e["source"] == name)) == pytest.approx(score, abs=1e-5)
    assert len(rows_of(to / "edges.csv")) == len(record["edges"])
    text = invoke("circuits", tiny_run, *FEW, "--by", "eap", "--no-curves", "--edges", 3).stdout
    assert f"edges by eap, the 3 largest of {len(edges):,}" in text
    assert all(edge["source"] in text for edge in edges[:3])
    assert "CPR" not in text


def test_the_text_has_areas_with_intervals_and_a_sentence(tiny_run: Path) -> None:
    text = invoke("circuits", tiny_run, *FEW, "--by", "eap-ig", "--ablation", "resample").stdout
    assert "resample ablation, 30 test images, 95 % intervals" in text
    assert "random order" in text
    assert "edges" not in text


def test_python_has_the_same_numbers_as_data_frames(studied: tuple[Path, Any], tiny_run: Path) -> None:
    _, record = studied
    circuits = measure_circuits(
        tiny_run, by=["eap"], edges=True, over=30, shares=(0.25, 0.5), orders=2, images=20, chunks=2
    )
    assert circuits.areas["cpr"].tolist() == [record["curves"][n]["cpr"]["value"] for n in (1, 3)]
    assert circuits.edges["score"].tolist() == [e["score"] for e in record["edges"] if e["by"] == "eap"]
    assert len(circuits.curves) == 2 * len(record["curves"][0]["points"])
    assert circuits.scores["eap"].tolist() == [*record["scores"]["eap"].values()]
    assert "CPR" in circuits._repr_html_()


def test_a_dry_run_counts_and_writes_nothing(tiny_run: Path, tmp_path: Path) -> None:
    plan = answer("circuits", tiny_run, *FEW, "--to", tmp_path / "out", "--dry-run")
    assert plan["circuits"] == 2 + (3 + 2) * 2
    assert (plan["analysis_images"], plan["images"], plan["passes"]) == (20, 30, 12 * 30)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "acdc", "--edges", 3), "edges are scored by eap and eap-ig"),
        (("--no-curves",), "name a score, and curves or edges"),
        (("--components", "head,block"), "parts that do not overlap"),
        (("--components", "chunk,neuron"), "parts that do not overlap"),
        (("--components", "heads"), "unknown kind of component 'heads'"),
        (("--loss", "kl"), "no gradient on clean images"),
        (("--shares", "2"), "from 0 to 1, not 2"),
        (("--corrupt", "masked"), "needs masks of the images: --masks DIR"),
        (("--corrupt", "masked", "--masks", "nowhere"), "there is no folder of masks nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    tiny_run: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    result = invoke("circuits", tiny_run, *FEW, *arguments, "--to", tmp_path / "out")
    assert message in error_of(result, 2)
    assert not (tmp_path / "out").exists()


def test_edges_of_a_post_norm_model_are_refused(tmp_path: Path) -> None:
    config = uniform(2, 2, 8, image=8, patch=4, channels=1, width=8, classes=10, head_width=4, norm_order="post")
    run = tmp_path / "post"
    write_model_run(run, ViT(config).eval(), stage="import", name="post", made_from={}, data=DataSource("digits"))
    assert "a post-norm model has none" in error_of(invoke("circuits", run, *FEW, "--edges", 3), 2)


def test_masks_give_the_corrupt_inputs_of_the_same_images(tiny_run: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    (masks / "digits").mkdir(parents=True)
    digits = dataset_of(open_model_run(tiny_run))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 2:6] = 255
    for split in (digits.train, digits.validation, digits.test):
        for name in split.ids:
            Image.fromarray(mask).save((masks / name).with_suffix(".png"))
    options = (*FEW, "--by", "eap", "--ablation", "resample", "--edges", 1)
    masked = answer("circuits", tiny_run, *options, "--corrupt", "masked", "--masks", masks)
    other = answer("circuits", tiny_run, *options)
    assert (masked["settings"]["corrupt"], masked["settings"]["masks"]) == ("masked", str(masks))
    assert "masks" not in other["settings"]
    assert masked["scores"]["eap"] != other["scores"]["eap"]
    assert masked["curves"][0]["points"][1]["metric"] != other["curves"][0]["points"][1]["metric"]
    ranked = answer(
        "rank", tiny_run, "--by", "eap", "--of", "head", "--images", 20, "--corrupt", "masked", "--masks", masks
    )
    heads = {entry["component"]: entry["score"] for entry in ranked["scores"]}
    assert heads == pytest.approx({name: masked["scores"]["eap"][name] for name in heads}, abs=1e-6)

    for name in digits.test.ids:  # refused before anything is scored
        (masks / name).with_suffix(".png").unlink()
    line = error_of(invoke("circuits", tiny_run, *options, "--corrupt", "masked", "--masks", masks), 2)
    assert "has no mask" in line
    answer("circuits", tiny_run, *options[:-4], "--edges", 1, "--corrupt", "masked", "--masks", masks)  # not needed
    for name in (*digits.train.ids, *digits.validation.ids):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save((masks / name).with_suffix(".png"))
    line = error_of(invoke("circuits", tiny_run, *options, "--corrupt", "masked", "--masks", masks), 2)
    assert "is 4 x 4 pixels, the image 8 x 8; give masks of the stored images' size" in line
