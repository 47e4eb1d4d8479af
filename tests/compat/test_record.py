from __future__ import annotations

from pathlib import Path

from testbed.compat.page import share, write_page
from testbed.compat.record import CHECKS, ArchitectureResult, CheckVerdict, Matrix


def result(name: str, **cells: CheckVerdict) -> ArchitectureResult:
    verdicts = {check: cells.get(check, CheckVerdict(True)) for check in CHECKS}
    return ArchitectureResult(f"timm/{name}", "ViT", "timm", "dynamo", verdicts, ("mlp.gelu: two | maps",))


def test_a_reason_is_given_once_for_all_cells_that_have_it_and_what_fails_first() -> None:
    model = result(
        "a", sites=CheckVerdict(None, "none"), twin=CheckVerdict(False, "differs"), flips=CheckVerdict(False, "differs")
    )
    assert model.reason == "twin, flips: differs; sites: none"
    assert model.failed == ["twin", "flips"]
    assert result("b").reason == ""


def test_cells_without_an_answer_do_not_count() -> None:
    matrix = Matrix((result("a", sites=CheckVerdict(None, "none")), result("b", twin=CheckVerdict(False, "differs"))))
    assert len(matrix.cells) == 2 * len(CHECKS) - 1
    assert share(matrix) == "12 of 13 cells (92.3 %)"
    assert not matrix.holds
    assert Matrix((result("a", sites=CheckVerdict(None, "none")),)).holds


def test_the_json_has_a_cell_per_check() -> None:
    model = result("a", sites=CheckVerdict(None, "none")).to_json()
    assert list(model["checks"]) == ["instrument", "sites", "twin", "zero_fault", "flips", "suffix", "weights"]
    assert model["checks"]["sites"] is None
    assert (model["name"], model["family"], model["library"], model["exporter"]) == ("timm/a", "ViT", "timm", "dynamo")


def test_the_page_has_a_row_per_file_and_the_reason_of_what_fails(tmp_path: Path) -> None:
    matrix = Matrix((result("a"), result("b", twin=CheckVerdict(False, "differs by 1*2"))), {"timm": "1.0"})
    write_page(matrix, tmp_path / "page.md")
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| ViT | `a` | dynamo | yes | yes | yes | yes | yes | yes | yes |" in lines
    assert "| ViT | `b` | dynamo | yes | yes | **no** | yes | yes | yes | yes |" in lines
    assert "- `timm/b`, dynamo: twin: differs by 1&#42;2" in lines
    assert "- `timm/a`: mlp.gelu: two &#124; maps" in lines
