from __future__ import annotations

import pytest

from testbed.compat.architectures.catalogue import ALL, choose
from testbed.core.errors import UsageError
from tests.support.commands import answer, error_of, invoke


def test_every_architecture_has_a_name_of_its_own_that_begins_with_its_library() -> None:
    assert len({entry.name for entry in ALL}) == len(ALL)
    assert all(entry.name.startswith(f"{entry.library}/") for entry in ALL)


def test_a_family_is_meant_by_its_name_and_by_how_it_begins() -> None:
    assert {entry.family for entry in choose(["deit"])} == {"DeiT", "DeiT, distilled"}
    assert {entry.family for entry in choose(["DeiT, distilled"])} == {"DeiT, distilled"}
    assert "DeiT" not in {entry.family for entry in choose(["ViT"])}


def test_choices_are_met_together() -> None:
    assert choose(models=["timm/deit", "timm/vit"], families=["DeiT"]) == choose(models=["timm/deit"])
    with pytest.raises(UsageError, match="of that family and library"):
        choose(["DeiT III"], ["torchvision"])


@pytest.mark.parametrize(("option", "value"), [("--family", "DieT"), ("--model", "timm/diet")])
def test_an_unknown_name_is_refused_with_what_may_have_been_meant(option: str, value: str) -> None:
    line = error_of(invoke("compat", option, value, "--dry-run"), 2)
    assert "did you mean" in line.casefold()
    assert "deit" in line.casefold()


def test_a_dry_run_lists_the_models() -> None:
    listed = answer("compat", "--library", "timm", "--dry-run")
    assert [model["name"] for model in listed] == [entry.name for entry in ALL if entry.library == "timm"]


def test_an_exporter_that_no_chosen_model_has_is_refused() -> None:
    assert "leave --exporter out" in error_of(invoke("compat", "--model", "timm/vit", "--exporter", "optimum"), 2)


def test_a_library_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "timm" else name)
    line = error_of(invoke("compat", "--model", "timm/vit", "--exporter", "dynamo"), 2)
    assert "pip install timm" in line
