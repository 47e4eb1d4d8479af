"""Which engines run on this machine, and what is said of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.core.errors import EngineError, UsageError
from testbed.engines.backends import BACKENDS, available, check_engine, precisions_of, require_engine
from testbed.engines.runner import EngineRequest, open_engine


def test_every_backend_says_whether_it_can_run_here_and_what_to_install() -> None:
    for name in BACKENDS:
        usable, reason = available(name)
        assert reason
        assert "\n" not in reason
        if usable:
            require_engine(name)
        else:
            assert "install" in reason or "needs" in reason
            with pytest.raises(EngineError, match=f"engine '{name}' cannot run here: "):
                open_engine(name, EngineRequest(b"", "sha", "id"))


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with pytest.raises(
        EngineError, match=r"'openvino' cannot run here: openvino is not installed: pip install openvino"
    ):
        open_engine("openvino", EngineRequest(b"", "sha", "id"))
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: not found\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match=r"does not import \(libnvinfer\.so\.11: not found\): pip install tensorrt"):
        require_engine("tensorrt")


@pytest.mark.parametrize("name", BACKENDS)
def test_any_machine_knows_the_engines_and_their_precisions(name: str) -> None:
    """A finished campaign can be looked at where its engine cannot run."""
    for precision in precisions_of(name):
        check_engine(name, precision)
    with pytest.raises(UsageError, match="does not offer 'fp8'"):
        check_engine(name, "fp8")
