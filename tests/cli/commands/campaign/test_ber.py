"""``testbed campaign ber``: what it prints, and one line for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from tests.support.commands import invoke


def ber(*arguments: object) -> Result:
    return invoke("campaign", "ber", *arguments)


def test_it_prints_one_json_object_and_the_same_one_again(tiny_run: Path) -> None:
    asked = (tiny_run, "--rates", "1e-4,1e-2", "--repeats", 2, "--images", 40, "--site", "*.fc1.weight", "--json")
    found = ber(*asked)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert [record["rate"] for record in told["rates"]] == [1e-4, 1e-2]
    assert (told["name"], told["images"], told["repeats"], told["seed"]) == ("tiny", 40, 2, 42)
    assert told["engine"]["backend"] == "ort-cpu"
    assert ber(*asked).stdout == found.stdout


def test_it_prints_a_table_for_people(tiny_run: Path) -> None:
    found = ber(tiny_run, "--rates", "0,1e-3", "--repeats", 2, "--images", 20)
    assert found.exit_code == 0, found.output
    assert "20 test images" in found.stdout
    assert "bit-error rate" in found.stdout
    assert "0.001" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--rates", "2"), 2, "error: a bit-error rate is a probability"),
        (("--rates", "often"), 2, "write numbers separated by commas"),
        (("--repeats", "1"), 2, "--repeats"),
        (("--site", "nowhere"), 2, "no weight site of target 'model' matches 'nowhere'"),
        (("--run", "elsewhere"), 2, "--run is for a spec"),
    ],
)
def test_a_wrong_request_is_one_line(tiny_run: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    found = ber(tiny_run, "--images", 4, *arguments)
    assert found.exit_code == code, found.output
    assert told in found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.output


def test_a_folder_without_a_campaign_is_named(tmp_path: Path) -> None:
    found = ber(tmp_path)
    assert found.exit_code == 2
    assert str(tmp_path) in found.stderr
