"""Each engine that this machine has, and the model that it is asked about."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from testbed.core.site import Site, SiteTable
from testbed.engines.backends import available
from testbed.engines.runner import Runner, open_engine
from testbed.export.onnx import export_onnx
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from tests.support.engine_contract import ENGINES, IMAGES, Open
from tests.support.engine_requests import asked


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViT, bytes]:
    """A model with a convolution, whose weights compilers would most like to lay out anew, and its plain ONNX."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ViTConfig(
        image=4, patch=2, channels=1, width=32, heads=(2,), mlp=(24,), classes=10, head_width=8, patchify="conv"
    )
    model = ViT(config).eval()
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, torch.from_numpy(IMAGES[:2]), file, input_name="image")
    return model, file.read_bytes()


@pytest.fixture(scope="session")
def plain(vit: tuple[ViT, bytes]) -> bytes:
    return vit[1]


@pytest.fixture(scope="session")
def table(plain: bytes) -> SiteTable:
    return site_table(plain, "model")


@pytest.fixture(scope="session", params=ENGINES)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    usable, reason = available(name)
    if not usable:
        pytest.skip(f"{name}: {reason}")
    return name


@pytest.fixture(scope="session")
def engine(backend: str) -> Open:
    """Opens the backend's engine for a model and settings; the same one for the same question."""

    @cache
    def opened(model: bytes, **settings: Any) -> Runner:
        return open_engine(backend, asked(model, **settings))

    return opened


@pytest.fixture(scope="session")
def weights(table: SiteTable) -> list[Site]:
    return table.select("weight", ["*"])


@pytest.fixture(scope="session")
def injector(plain: bytes, engine: Open) -> Any:
    return engine(plain, mutable_weights=True)
