"""The support matrix itself: some models in every run, all of them where slow tests are run."""

from __future__ import annotations

import os
from typing import Any

import pytest

from testbed.compat import run
from testbed.compat.architectures.catalogue import ALL, choose
from testbed.compat.architectures.entry import Architecture
from testbed.compat.exporters import EXPORTERS, Exporter, exporters_of
from testbed.compat.record import CHECKS
from testbed.compat.run import check_model, planned, run_matrix
from testbed.core.errors import TestbedError, UsageError
from tests.support.libraries import imported

_MODULES = {"vit-pytorch": "vit_pytorch"}
_SUBSET: tuple[tuple[str, Exporter], ...] = (
    ("timm/vit", "dynamo"),
    ("timm/deit-distilled", "torchscript"),
    ("timm/swin", "torchscript"),
    ("transformers/vit", "optimum"),
    ("torchvision/vit", "torchscript"),
    ("vit-pytorch/simple-vit", "torchscript"),
)


@pytest.mark.parametrize(("name", "exporter"), _SUBSET)
def test_some_models_of_every_library_work(name: str, exporter: Exporter) -> None:
    (entry,) = choose(models=[name])
    imported(_MODULES.get(entry.library, entry.library))
    result = check_model(entry, exporter)
    assert result.reason == ""
    assert {check: verdict.holds for check, verdict in result.verdicts.items()} == dict.fromkeys(CHECKS, True)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "exporter"), planned(ALL), ids=lambda part: getattr(part, "name", part))
def test_no_model_breaks_the_matrix(entry: Architecture, exporter: Exporter) -> None:
    """Cells may be false, with a reason; the plain ViT's family must not be."""
    imported(_MODULES.get(entry.library, entry.library))
    result = check_model(entry, exporter)
    assert all(verdict.holds or verdict.reason for verdict in result.verdicts.values())
    if entry.family in ("ViT", "DeiT", "SimpleViT"):
        assert result.failed == []


def broken() -> Any:
    raise RuntimeError("no such layer\nand more")


def test_a_model_that_cannot_be_built_is_a_row_and_the_others_go_on() -> None:
    entry = Architecture("timm/none", "None", "timm", broken, 1)
    matrix = run_matrix([(entry, "dynamo"), (entry, "torchscript")])
    assert [model.exporter for model in matrix.models] == ["dynamo", "torchscript"]
    assert {verdict.holds for model in matrix.models for verdict in model.verdicts.values()} == {None}
    assert matrix.models[0].reason.endswith(": not exported: no such layer")


def test_workers_find_what_one_process_finds_in_the_order_asked_for() -> None:
    imported("vit_pytorch")
    files: list[tuple[Architecture, Exporter]] = [
        (entry, "torchscript") for entry in choose(models=["vit-pytorch/simple-vit", "vit-pytorch/vit"])
    ]
    finished: list[str] = []
    matrix = run_matrix(files, lambda result: finished.append(result.name), workers=2)
    assert [model.name for model in matrix.models] == [entry.name for entry, _ in files]
    assert sorted(finished) == sorted(entry.name for entry, _ in files)
    for (entry, exporter), model in zip(files, matrix.models, strict=True):
        here = check_model(entry, exporter)
        assert (model.verdicts, model.notes, model.absent) == (here.verdicts, here.notes, here.absent)
        assert model.failed == []


def test_a_worker_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    imported("vit_pytorch")
    monkeypatch.setattr(run, "check_named", ending)
    with pytest.raises(TestbedError, match="a worker was killed"):
        run_matrix([(choose(models=["vit-pytorch/vit"])[0], "dynamo")], workers=1)


def ending(*_: object) -> None:
    os._exit(9)


def test_a_check_that_raises_is_a_cell_and_the_next_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(run, "export", lambda model, entry, exporter, file: file)
    monkeypatch.setattr(run, "MADE_BY", {"instrument": lambda _: None, "sites": fails, "twin": lambda _: ("seen",)})
    (entry,) = choose(models=["vit-pytorch/vit"])
    imported("vit_pytorch")
    result = check_model(entry, "dynamo")
    assert {check: verdict.holds for check, verdict in result.verdicts.items()} == {
        "instrument": True, "sites": False, "twin": True
    }  # fmt: skip
    assert result.reason == "sites: ZeroDivisionError"
    assert result.notes == ("seen",)


def test_no_check_is_begun_past_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "export", lambda model, entry, exporter, file: file)
    (entry,) = choose(models=["vit-pytorch/vit"])
    imported("vit_pytorch")
    result = check_model(entry, "dynamo", limit_s=-1)
    assert result.failed == list(CHECKS)
    assert "took too long" in result.reason


def test_every_model_is_planned_with_what_its_users_have() -> None:
    files = planned(ALL)
    assert len(files) == sum(len(exporters_of(entry)) for entry in ALL) >= 90
    assert planned(ALL, ["dynamo"]) == [(entry, "dynamo") for entry in ALL]
    assert {exporter for _, exporter in files} == set(EXPORTERS)
    with pytest.raises(UsageError, match="optimum"):
        planned(choose(libraries=["torchvision"]), ["optimum"])


def test_there_are_as_many_architectures_and_families_as_are_promised() -> None:
    families = {entry.family.partition(",")[0] for entry in ALL}
    wanted = {
        "ViT",
        "ViT hybrid",
        "DeiT",
        "BEiT",
        "EVA-02",
        "DINOv2",
        "DINOv3",
        "SigLIP",
        "CLIP",
        "CaiT",
        "XCiT",
        "Swin",
    }
    wanted |= {"SwinV2", "CrossViT", "Twins", "PVTv2", "LeViT", "MobileViT", "TinyViT", "CoaT", "MaxViT", "SimpleViT"}
    assert len(ALL) >= 45
    assert wanted <= families
