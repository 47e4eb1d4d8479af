"""Attention modules whose faults are evaluated."""

from __future__ import annotations

import pytest

from tests.support.attention_cases import Case, case


@pytest.fixture(scope="session")
def plain_case() -> Case:
    return case()


@pytest.fixture(scope="session", params=[1.0, 6.0], ids=["calm", "loud"])
def each_case(request: pytest.FixtureRequest) -> Case:
    return case(loudness=request.param)
