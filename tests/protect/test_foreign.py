"""Protection of a file that nothing says the names of: sites keep the names that they are recognised by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from testbed.core.errors import UsageError
from testbed.core.protected import DETECTED, PREFIX
from testbed.data import load
from testbed.instrument.sites.catalogue import catalogue
from testbed.protect.foreign import FileData, protect_file
from testbed.protect.named import passes_named
from testbed.protect.observe import run_all
from testbed.protect.run import ProtectRequest
from tests.support.protected import foreign, plain_files, tiny_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    path = folder / "theirs.onnx"
    path.write_bytes(foreign(plain_files(tiny_model(), folder)["fp32"]))
    return path


def request_for(*passes: str) -> ProtectRequest:
    return ProtectRequest(passes_named(passes, {}), calibration_images=64, images=100)


def test_a_foreign_file_keeps_its_logits_and_the_names_of_its_sites(file: Path, tmp_path: Path) -> None:
    to = tmp_path / "protected.onnx"
    done = protect_file(file, to, request_for("range", "checksum", "nonfinite"), FileData("digits"))
    (checked,) = done.files
    assert checked.ensured.unchanged[0].false_alarms == 0
    before, after = (catalogue(each.read_bytes()).recognised for each in (file, to))
    named = {site.name: (site.tensor, site.shape) for site in after if not site.name.startswith(PREFIX)}
    assert named == {site.name: (site.tensor, site.shape) for site in before}
    images = load("digits").test.batch(slice(0, 40))
    plain, protected = (onnx.load(each) for each in (file, to))
    results = run_all(protected, images, "ort-cpu", "fp32")
    name = plain.graph.output[0].name
    np.testing.assert_allclose(results[name], run_all(plain, images, "ort-cpu", "fp32")[name], rtol=1e-5, atol=1e-5)
    assert not results[DETECTED].any()
    with pytest.raises(UsageError, match="protected already"):
        protect_file(to, tmp_path / "twice.onnx", request_for("range"), FileData("digits"))
    with pytest.raises(UsageError, match="is there already"):
        protect_file(file, file, request_for("range"), FileData("digits"))
