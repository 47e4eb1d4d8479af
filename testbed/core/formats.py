"""Number formats a fault can strike: word widths, and what each bit is (its role, and the class it is reported
under)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown


@dataclass(frozen=True)
class Format:
    """A stored number. Bit 0 is the least significant. ``exponent`` is 0 for integers."""

    name: str
    bits: int
    exponent: int
    mantissa: int

    @property
    def word(self) -> str:
        """NumPy name of the unsigned word that holds the bits."""
        return f"uint{self.bits}"

    def role(self, bit: int) -> str:
        """The bit's role, sign, exponent, mantissa or magnitude: the roles that formats share, for comparisons across
        precisions."""
        if not 0 <= bit < self.bits:
            raise UsageError(f"bit {bit} is not in {self.name}, whose bits are 0 to {self.bits - 1}")
        if bit == self.bits - 1 and not self.name.startswith("uint"):
            return "sign"
        if not self.exponent:
            return "magnitude"
        return "exponent" if bit >= self.mantissa else "mantissa"

    def role_name(self, bit: int | None) -> str:
        """The bit by its role and its distance from the role's top: "exponent-0" is the top exponent bit in any format."""
        if bit is None:
            return "word"
        self.role(bit)
        return self._role_names[bit]

    @cached_property
    def _role_names(self) -> tuple[str, ...]:
        roles = [self.role(bit) for bit in range(self.bits)]
        tops = {role: bit for bit, role in enumerate(roles)}
        return tuple(f"{role}-{tops[role] - bit}" for bit, role in enumerate(roles))

    def bit_class(self, bit: int | None) -> str:
        """The display class of a bit; ``None`` (a whole-word fault) is "word"."""
        if bit is None:
            return "word"
        role = self.role(bit)
        if role == "exponent" and bit == self.bits - 2:
            return "exponent_top"
        if role == "mantissa":
            return "mantissa_high" if bit >= self.mantissa // 2 + 1 else "mantissa_low"
        return role


FORMATS = {
    f.name: f
    for f in (
        Format("fp32", 32, 8, 23),
        Format("fp16", 16, 5, 10),
        Format("bf16", 16, 8, 7),
        Format("int8", 8, 0, 0),
        Format("uint8", 8, 0, 0),
        Format("int16", 16, 0, 0),
        Format("uint16", 16, 0, 0),
        Format("int32", 32, 0, 0),
    )
}
FP32 = FORMATS["fp32"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Number formats that a deployed model may be in; its weights then may have others of them too, such as int32 biases."""


def format_named(name: str) -> Format:
    """Look up "fp32", "fp16", "bf16", "int8", "uint8", "int16", "uint16" or "int32". Raises UsageError for another."""
    if name not in FORMATS:
        raise UsageError(unknown("number format", name, FORMATS))
    return FORMATS[name]
