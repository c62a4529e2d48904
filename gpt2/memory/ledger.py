"""A ledger of bytes: what is held, by kind, and the moment at which most is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

#: What memory is held for, in the order in which a plan lists it.
KINDS = (
    "parameters",
    "gradients",
    "optimizer state",
    "masks",
    "activations",
    "logits",
    "workspace",
)


@dataclass(frozen=True)
class Peak:
    """The moment at which most is held: bytes by kind, and the phase it falls in."""

    phase: str
    held: dict[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.held.values())


class Ledger:
    """Adds up what is taken and given back, and remembers the peak."""

    def __init__(self) -> None:
        self.phase = ""
        self._held: Counter[str] = Counter()
        self._total = 0
        self.peak = Peak("", {})

    def take(self, kind: str, size: int) -> int:
        """Hold `size` bytes more; return them, to be given back."""
        assert kind in KINDS
        self._held[kind] += size
        self._total += size
        if self._total > self.peak.total:
            self.peak = Peak(self.phase, {kind: self._held[kind] for kind in KINDS})
        return size

    def give(self, kind: str, size: int) -> None:
        """Hold `size` bytes less."""
        self._held[kind] -= size
        self._total -= size
        assert self._held[kind] >= 0, f"more {kind} given back than was taken"

    def brief(self, kind: str, size: int) -> None:
        """Hold `size` bytes for a moment."""
        self.give(kind, self.take(kind, size))
