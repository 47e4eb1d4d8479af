"""``testbed attention``: pictures and numbers of a model, of a stored fault, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testbed.models.config import uniform
from testbed.models.runs import DataSource, write_model_run
from testbed.models.vit import ViT
from tests.support.commands import answer, error_of, invoke

DIFFERENTIAL: dict[str, Any] = {
    "depth": 2, "heads": 2, "mlp": 8, "image": 8, "patch": 4, "channels": 1, "width": 8, "classes": 10, "head_width": 4,
}  # fmt: skip


def model_folder(path: Path, heads: tuple[int, ...] = (2, 2), **changes: Any) -> Path:
    model = ViT(replace(uniform(**(DIFFERENTIAL | changes)), heads=heads)).eval()
    write_model_run(path, model, stage="import", name="small", made_from={"n": len(changes)}, data=DataSource("digits"))
    return path


def test_a_page_and_numbers_of_a_model(tiny_run: Path, tmp_path: Path) -> None:
    told = answer("attention", tiny_run, "--over", 50, "--to", tmp_path / "out", "--files", "--format", "png")
    page = (tmp_path / "out/attention.html").read_text()
    assert not re.findall(r'(?:href|src)="(?!data:)', page)
    assert json.loads((tmp_path / "out/attention.json").read_text()) == {k: v for k, v in told.items() if k != "files"}
    rows = list(csv.DictReader((tmp_path / "out/distances.csv").read_text().splitlines()))
    assert [float(row["mean_px"]) for row in rows] == [record["mean_px"] for record in told["distances"]]
    assert {record["images"] for record in told["distances"]} == {50}
    for file in told["files"]:
        assert Path(file).exists()
    first = told["images"][0]["image_id"].replace("/", "_")
    names = {
        path.relative_to(tmp_path / "out" / first).as_posix() for path in (tmp_path / "out" / first).rglob("*.png")
    }
    assert {"rollout.png", "all_layers.png", "last_layer/mean.png", "last_layer/head_0.png"} <= names
    for path in (tmp_path / "out").rglob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.std() > 1  # something is drawn


def test_the_images_that_are_named_are_drawn(tiny_run: Path) -> None:
    told = answer("attention", tiny_run, "--over", 8, "--images", "digits/0005,digits/0001")
    assert [image["image_id"] for image in told["images"]] == ["digits/0005", "digits/0001"]
    assert told["files"] == []


def test_differential_attention_shows_its_two_maps(tmp_path: Path) -> None:
    run = model_folder(tmp_path / "run", attention="differential")
    image = ("--images", "digits/0001")
    told = answer("attention", run, "--over", 8, *image, "--to", tmp_path / "out", "--files", "--format", "png")
    assert any(file.endswith("last_layer/differential.png") for file in told["files"])


@pytest.mark.parametrize("changes", [{"cls_token": False, "pooling": "mean"}, {"position": "none"}])
def test_models_without_cls_or_positions(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = model_folder(tmp_path / "run", **changes)
    answer("attention", run, "--over", 8, "--images", "digits/0001", "--to", tmp_path / "out", "--format", "png")
    page = (tmp_path / "out/attention.html").read_text()
    assert ('alt="position_similarity"' in page) == ("position" not in changes)


def test_a_stored_fault_beside_the_golden_run(tiny_run: Path, tmp_path: Path) -> None:
    told = answer("attention", tiny_run, "--fault", 3, "--to", tmp_path / "out", "--files")
    fault = told["fault"]
    assert fault["fault_id"] == 3
    assert fault["agrees"] in (True, None)
    assert [block["block"] for block in fault["blocks"]] == list(range(len(fault["blocks"])))
    drawn = {Path(file).relative_to(tmp_path / "out").parts[0] for file in told["files"]}
    assert {"golden", "faulty"} <= drawn
    assert told["distances"] == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--files",), "--files are written into --to DIR"),
        (("--image", "digits/0001"), "--image goes with --fault"),
        (("--fault", 3, "--over", 5), "leave out --images and --over"),
        (("--fault", 10**8), "there is no fault"),
        (("--images", "digits/9999"), "no image 'digits/9999'"),
    ],
)
def test_what_does_not_go_is_told_in_a_line(tiny_run: Path, words: tuple[Any, ...], line: str) -> None:
    assert line in error_of(invoke("attention", tiny_run, *words), 2)


def test_a_fault_of_a_model_folder_and_a_model_without_attention(tmp_path: Path) -> None:
    run = model_folder(tmp_path / "run", heads=(0, 0))
    assert "no block of this model attends" in error_of(invoke("attention", run), 2)
    assert "is not a campaign's folder" in error_of(invoke("attention", run, "--fault", 1), 2)
