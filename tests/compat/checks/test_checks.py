"""Each check of the support matrix fails where what it looks at is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from testbed.compat.architectures.catalogue import choose
from testbed.compat.checks import flips, gates
from testbed.compat.checks.flips import check_flips
from testbed.compat.checks.gates import check_suffix, check_weights, check_zero_fault
from testbed.compat.checks.sites import check_sites, expected
from testbed.compat.checks.subject import CheckedExport, CheckFailed
from testbed.compat.checks.twin import check_twin
from testbed.compat.exporters import export
from testbed.compat.seeded import built
from tests.support.libraries import imported


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckedExport]:
    imported("timm")
    (entry,) = choose(models=["timm/vit"])
    folder = tmp_path_factory.mktemp("compat")
    model = built(entry)
    with ExitStack() as stack:
        yield CheckedExport(entry, model, export(model, entry, "torchscript", folder / "model.onnx"), folder, stack)


def with_entry(subject: CheckedExport, **changes: Any) -> CheckedExport:
    """The same model by another entry of the catalogue; what is prepared of it is shared."""
    other = replace(subject, entry=replace(subject.entry, **changes))
    other.__dict__.update(subject.__dict__ | {"entry": other.entry})
    return other


def test_sites(subject: CheckedExport) -> None:
    check_sites(subject)
    assert len(expected(subject.entry)) == 28
    with pytest.raises(CheckFailed, match=r"block\.2\.norm1, .* and 8 more"):
        check_sites(with_entry(subject, blocks=3))
    with pytest.raises(CheckFailed, match="blocks 0, 1 instead of 0 to 0"):
        check_sites(with_entry(subject, blocks=1))


def test_what_a_structure_has_not_is_not_expected(subject: CheckedExport) -> None:
    lacking = {"mlp.*": "no MLP", "block.1.norm1": "none"}
    names = expected(with_entry(subject, absent=lacking).entry)
    assert len(names) == 28 - 2 * 4 - 1
    assert "block.1.norm1" not in names
    assert "block.0.norm1" in names


def test_twin(subject: CheckedExport, monkeypatch: pytest.MonkeyPatch) -> None:
    check_twin(subject)
    twin = type(subject.twin)()
    twin.CopyFrom(subject.twin)
    weight = next(tensor for tensor in twin.graph.initializer if list(tensor.dims) == [32, 96])
    weight.raw_data = bytes(weight.raw_data[:-1]) + bytes([weight.raw_data[-1] ^ 1])
    monkeypatch.setitem(subject.__dict__, "twin", twin)
    with pytest.raises(CheckFailed, match="unarmed, the twin gives other bits"):
        check_twin(subject)


def test_flips_by_hand(subject: CheckedExport, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_flips(subject) == ()
    right = flips.with_element
    monkeypatch.setattr(
        flips, "with_element", lambda proto, tensor, index, value: right(proto, tensor, index ^ 1, value)
    )
    with pytest.raises(CheckFailed, match="other bits than the plain graph edited by hand"):
        check_flips(subject)


def test_flips_in_the_librarys_model(subject: CheckedExport, monkeypatch: pytest.MonkeyPatch) -> None:
    right = flips.inject_activations
    monkeypatch.setattr(flips, "inject_activations", lambda subject, several: right(subject, several[::-1])[::-1])
    check_flips(subject)
    monkeypatch.setattr(
        flips, "inject_activations", lambda subject, several: right(subject, [*several[1:], several[0]])
    )
    with pytest.raises(CheckFailed, match="the library's own differ"):
        check_flips(subject)


def test_gates(subject: CheckedExport, monkeypatch: pytest.MonkeyPatch) -> None:
    check_zero_fault(subject)
    check_suffix(subject)
    check_weights(subject)
    right = gates.with_parameter
    monkeypatch.setattr(
        gates,
        "with_parameter",
        lambda model, image, values, index, masks: right(model, image, values, index ^ 1, masks),
    )
    with pytest.raises(CheckFailed, match="under one flip"):
        check_weights(subject)
    with pytest.raises(CheckFailed, match="no weight of blocks 2 has a name"):
        check_weights(with_entry(subject, blocks=3))
