"""What is used in a ``with`` block is closed at its end, whatever happens inside."""

from __future__ import annotations

import pytest

from testbed.core.closing import Closing


class Held(Closing):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_end_of_the_block_closes_it() -> None:
    with Held() as held:
        assert held.closed == 0
    assert held.closed == 1


def test_an_error_inside_closes_it_and_is_raised() -> None:
    held = Held()
    with pytest.raises(KeyError), held:
        raise KeyError
    assert held.closed == 1
