"""Shapes of the tensors that can be sites: each image's own, whether the batch leads alone or joined with another axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SiteShapes:
    """``led``: tensor whose leading axis is the batch -> its shape without it. ``joined``: tensor whose leading axis is
    the batch and an axis of its own in one, as windows have it -> its shape for one image, that axis first."""

    led: Mapping[str, tuple[int, ...]]
    joined: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.led or tensor in self.joined

    def trailing(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape after its leading axis; () where it is no site's."""
        return self.led.get(tensor) or self.joined.get(tensor, ())[1:]

    def first(self, tensors: Iterable[str]) -> str | None:
        """The first of ``tensors`` that the batch leads alone or, where none is, that it leads joined."""
        known = [tensor for tensor in tensors if tensor in self]
        return next((tensor for tensor in known if tensor in self.led), next(iter(known), None))
