"""A ledger of bytes: what is held, by kind, and the moment at which most is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gpt2.machine.device import KEPT

#: What memory is held for, in the order in which a plan lists it.
KINDS = (
    "parameters",
    "gradients",
    "optimizer state",
    "masks",
    "checkpoint copy",
    "activations",
    "logits",
    "workspace",
)


@dataclass(frozen=True)
class Peak:
    """The moment at which most is held: bytes by kind, and the phase it falls in.

    resident: what a process on a CPU comes to hold. Its heap keeps small blocks, and those of one
    kind seldom fit into the holes of another; large ones go back to the system at once.
    """

    phase: str
    held: dict[str, int]
    resident: int = 0

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
        self._peak = Peak("", {})
        self._small: Counter[str] = Counter()
        self._small_peaks: Counter[str] = Counter()
        self._large = self._large_peak = 0

    @property
    def peak(self) -> Peak:
        """The peak up to now."""
        resident = self._large_peak + self._small_peaks.total()
        return Peak(self._peak.phase, self._peak.held, resident)

    def take(self, kind: str, size: int) -> int:
        """Hold `size` bytes more; return them, to be given back."""
        assert kind in KINDS
        self._held[kind] += size
        self._total += size
        if size < KEPT:
            self._small[kind] += size
            self._small_peaks[kind] = max(self._small_peaks[kind], self._small[kind])
        else:
            self._large += size
            self._large_peak = max(self._large_peak, self._large)
        if self._total > self._peak.total:
            self._peak = Peak(self.phase, {kind: self._held[kind] for kind in KINDS})
        return size

    def give(self, kind: str, size: int) -> None:
        """Hold `size` bytes less."""
        self._held[kind] -= size
        self._total -= size
        if size < KEPT:
            self._small[kind] -= size
        else:
            self._large -= size
        assert self._held[kind] >= 0, f"more {kind} given back than was taken"

    def brief(self, kind: str, size: int) -> None:
        """Hold `size` bytes for a moment."""
        self.give(kind, self.take(kind, size))
