"""Where nobody watches a bar, long work tells now and then how far it is, and short work nothing."""

from __future__ import annotations

import pytest

from testbed.cli import progress
from testbed.cli.progress import progress_on_stderr


def test_a_line_every_half_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress_on_stderr(4000, "images") as advance:
        for _ in range(8):
            clock[0] += 10
            advance(500)
    assert capsys.readouterr() == ("", "1,500 of 4,000 images, 50/s\n3,000 of 4,000 images, 50/s\n")


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr(3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
