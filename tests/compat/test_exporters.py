from __future__ import annotations

import os
import sys

import pytest

from testbed.compat.architectures.catalogue import choose
from testbed.compat.exporters import exporters_of, quiet


def test_nothing_that_a_library_prints_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("in Python")
        print("in Python", file=sys.stderr)
        os.write(1, b"past Python")
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_only_models_of_hugging_face_have_optimums_exporter() -> None:
    (timm,), (hugging_face,) = choose(models=["timm/vit"]), choose(models=["transformers/vit"])
    assert exporters_of(timm) == ("dynamo", "torchscript")
    assert exporters_of(hugging_face) == ("dynamo", "torchscript", "optimum")
