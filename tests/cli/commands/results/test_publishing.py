"""``testbed show``, ``results``, ``figures`` and ``runs``: finished runs on the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.support.commands import answer, error_of, invoke


def printed(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_show_has_two_names(tiny_run: Path) -> None:
    for options in ((), ("--by", "site", "--op", "flip"), ("--json",)):
        assert printed("show", tiny_run, *options) == printed("campaign", "show", tiny_run, *options)
    assert "testbed show runs/digits" in printed("show", "-h")
    assert "testbed campaign show runs/digits" in printed("campaign", "show", "-h")


def test_results_need_neither_model_nor_data(tiny_copy: Path) -> None:
    before = answer("results", tiny_copy, "--by", "block")
    for path in (*tiny_copy.glob("*.onnx"), *tiny_copy.glob("*.safetensors")):
        path.unlink()
    assert answer("results", tiny_copy, "--by", "block") == before
    summary = answer("show", tiny_copy)
    (rate,) = (
        m["rates"]["outside"]
        for m in summary["marginals"]
        if (m["target"], m["where"], m["op"], m["by"], m["value"]) == ("model", "weight", "flip", "block", 0)
    )
    (row,) = (
        r for r in before["rates"] if (r["target"], r["where"], r["op"], r["block"]) == ("model", "weight", "flip", 0)
    )
    for end, name in (("rate", "outside"), ("low", "outside_low"), ("high", "outside_high")):
        assert rate[end] == pytest.approx(row[name], abs=1e-9)


def test_a_table_is_for_people(tiny_run: Path) -> None:
    text = printed("results", tiny_run, "--by", "kind", "--op", "flip", "--measure", "sdc1")
    assert "tiny, digits, ort-cpu, fp32, flip; rates in % with 95 % intervals" in " ".join(text.split())
    assert re.search(r"softmax\W+\d+\W+\d+\W+\d+\.\d\d \[", text)
    assert "non-finite" not in text


@pytest.mark.parametrize("form", ["table", "csv", "json", "latex", "markdown", "html"])
def test_every_format_goes_to_the_terminal_or_a_file(tiny_run: Path, tmp_path: Path, form: str) -> None:
    words = ("results", tiny_run, "--by", "block", "--format", form)
    text = printed(*words)
    file = tmp_path / "rates"
    assert printed(*words, "--to", file) == f"{file}\n"
    if form != "table":  # its width is the terminal's
        assert file.read_text() == text
    assert "<script" not in file.read_text()


def test_csv_is_read_by_pandas(tiny_run: Path, tmp_path: Path) -> None:
    printed("results", tiny_run, "--format", "csv", "--to", tmp_path / "rates.csv")
    assert set(pd.read_csv(tmp_path / "rates.csv").op) == {"flip", "stuck0", "stuck1", "random"}


def test_a_page_of_several_runs_is_self_contained(tiny_run: Path, tiny_copy: Path) -> None:
    page = printed("results", tiny_run, tiny_copy, "--format", "html")
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.findall(r'(?:href|src)="(?!data:)', page)
    assert str(tiny_copy) in page


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--by", "blok"), "did you mean 'block'"),
        (("--op", "zap"), "unknown fault model 'zap'"),
        (("--format", "xls"), "'xls' is not one of"),
    ],
)
def test_a_wrong_word_is_told_in_a_line(tiny_run: Path, words: tuple[str, ...], line: str) -> None:
    assert line in error_of(invoke("results", tiny_run, *words), 2)


def test_a_folder_without_a_campaign_is_told_in_a_line(tmp_path: Path) -> None:
    for words in (("results",), ("figures", "--to", tmp_path / "f"), ("show",)):
        assert "holds no run" in error_of(invoke(*words, tmp_path / "nothing"), 2)


def test_figures_are_written_and_named(tiny_run: Path, tmp_path: Path) -> None:
    to = tmp_path / "figures"
    words = ("figures", tiny_run, "--by", "kind,block", "--format", "pdf", "--to", to)
    assert printed(*words).splitlines() == [str(to / "rates-by-kind.pdf"), str(to / "rates-by-block.pdf")]
    assert answer(*words)["figures"] == [str(to / "rates-by-kind.pdf"), str(to / "rates-by-block.pdf")]
    assert "no fault of 'random'" in error_of(
        invoke("figures", tiny_run, "--by", "bit", "--op", "random", "--to", to), 2
    )


# ---- runs


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, runs / "tiny")
    shutil.copytree(tiny_run, runs / "deep" / "er" / "begun")
    begun = json.loads((runs / "deep" / "er" / "begun" / "manifest.json").read_text())
    assert begun["kind"] == "campaign"
    (runs / "damaged").mkdir()
    (runs / "damaged" / "manifest.json").write_text("{")
    (runs / "no-run").mkdir()
    return runs


def test_runs_are_listed_with_what_they_are(folder: Path) -> None:
    entries = {Path(entry["run"]).name: entry for entry in answer("runs", folder)["runs"]}
    assert sorted(entries) == ["begun", "damaged", "tiny"]
    summary = answer("show", folder / "tiny")
    tiny = entries["tiny"]
    assert (tiny["model"], tiny["engine"], tiny["precision"]) == ("digits", "ort-cpu", "fp32")
    assert (tiny["state"], tiny["faults"]) == ("finished", summary["faults"])
    first = summary["marginals"][0]
    assert (tiny["rate"], tiny["low"], tiny["high"]) == tuple(
        first["rates"]["sdc1"][end] for end in ("rate", "low", "high")
    )
    assert tiny["op"] == "flip in activations"
    assert entries["damaged"]["state"] == "damaged"
    text = printed("runs", folder)
    assert "3 run folders" in text
    assert entries["damaged"]["problem"] is not None


def test_a_campaign_that_is_not_finished_says_how_far_it_is(gated: Path) -> None:
    (entry,) = answer("runs", gated.parent)["runs"]
    assert (entry["state"], entry["stage"], entry["faults"]) == ("interrupted", "tune", None)


def test_a_folder_without_runs_says_so(tmp_path: Path) -> None:
    assert printed("runs", tmp_path) == f"no run folders in {tmp_path}\n"
    assert "is no folder" in error_of(invoke("runs", tmp_path / "nothing"), 2)
