"""The looks at one domain of one campaign: how sure each of them must be, given those before."""

from __future__ import annotations

import math

from scipy.special import ndtri

from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.spending import critical_value

_GRAIN = 8  # information times are powers of 2^(1/8): sequences of looks repeat, and no two looks are nearly the same
_NEVER = -(10**6)  # the power of no look yet
_ROUNDING = 1e-6


class Looks:
    """The looks at one domain of one campaign."""

    def __init__(self) -> None:
        self.times: tuple[float, ...] = ()
        self.spent: tuple[float, ...] = ()
        self.late, self.power = 0, _NEVER

    def critical_value(self, time: float, rule: StopRule, final: bool) -> float | None:
        """Critical value of a look at this information time; None where no look is worth while: less information than
        at the last one, as when rates turn out higher than they seemed."""
        power = math.floor(_GRAIN * math.log2(time) + _ROUNDING)
        if power <= self.power and not final:
            return None
        self.power = max(power, self.power + 1)
        times, spent = self._with(self.power, rule, final)
        self.times, self.spent = times, spent
        self.late += times[-1] >= 1
        return critical_value(times, spent)

    def closing_time(self, rule: StopRule) -> float:
        """The least information time at which a next look would close the domain."""
        aimed = ndtri(0.5 + rule.aimed_confidence / 2)
        power = max(self.power + 1, 0)
        while critical_value(*self._with(power, rule, False)) > aimed * 2 ** (power / _GRAIN / 2):
            power += 1
        return 2.0 ** (power / _GRAIN)

    def _with(self, power: int, rule: StopRule, final: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
        time = 2.0 ** (power / _GRAIN)
        return (*self.times, time), (*self.spent, rule.spent(time, self.late, final))
