"""A ledger of bytes: what is held, by kind, and the peak of each phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpt2.machine.device import KEPT

#: Kinds of memory, in the order of the plan.
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
_COUNT = len(KINDS)

#: Bytes by kind in small blocks (see device.KEPT), then by kind in large ones.
Bytes = tuple[int, ...]
NOTHING: Bytes = (0,) * (2 * _COUNT)


@dataclass(frozen=True)
class Peak:
    """The moment of most memory: bytes by kind, and its phase.

    resident: the memory of a CPU process. Its heap keeps small blocks, and those of one kind rarely
    fit into the holes of another; large blocks return to the system at once.
    """

    phase: str
    held: dict[str, int]
    resident: int = 0

    @property
    def total(self) -> int:
        """Return all bytes."""
        return sum(self.held.values())


@dataclass(frozen=True)
class Phase:
    """A phase of a step: what is held at its peak.

    small, large: the most bytes in small blocks of each kind, and in all large blocks.
    """

    name: str
    peak: Bytes
    small: Bytes
    large: int

    def shifted(self, by: Bytes) -> Phase:
        """Return the same phase with `by` more held all the time."""
        return Phase(
            self.name,
            plus(self.peak, by),
            plus(self.small, by[:_COUNT]),
            self.large + sum(by[_COUNT:]),
        )

    def towards(self, other: Phase, times: int) -> Phase:
        """Return the phase `times` as far from this one as `other` is: linear extrapolation."""
        return Phase(
            self.name,
            between(self.peak, other.peak, times),
            between(self.small, other.small, times),
            self.large + times * (other.large - self.large),
        )


def plus(some: Bytes, more: Bytes) -> Bytes:
    """Return some + more, number by number."""
    return tuple(a + b for a, b in zip(some, more, strict=True))


def between(some: Bytes, other: Bytes, times: int) -> Bytes:
    """Return some + times * (other - some), number by number."""
    return tuple(a + times * (b - a) for a, b in zip(some, other, strict=True))


def block(kind: str, size: int) -> Bytes:
    """Return the bytes of one block."""
    place = KINDS.index(kind) + (0 if size < KEPT else _COUNT)
    return tuple(size if i == place else 0 for i in range(2 * _COUNT))


def peak_over(phases: Sequence[Phase]) -> Peak:
    """Return the peak of a step of these phases."""
    highest = max(phases, key=lambda phase: sum(phase.peak))
    held = {kind: highest.peak[i] + highest.peak[_COUNT + i] for i, kind in enumerate(KINDS)}
    small = sum(max(phase.small[i] for phase in phases) for i in range(_COUNT))
    return Peak(highest.name, held, max(phase.large for phase in phases) + small)


class Ledger:
    """Counts what is taken and freed, phase by phase."""

    def __init__(self) -> None:
        #: Finished phases, by the keys they were begun with.
        self.phases: dict[str, Phase] = {}
        self._held = [0] * (2 * _COUNT)
        self._name = ""
        self._keys: tuple[str, ...] = ()
        self._total = self._large = 0
        self._reset()

    @property
    def total(self) -> int:
        """Return the bytes held now."""
        return self._total

    @property
    def highest(self) -> int:
        """Return the most bytes held at once in the current phase."""
        return self._highest

    @property
    def held(self) -> Bytes:
        """Return the bytes held now, by kind."""
        return tuple(self._held)

    def begin(self, name: str, *keys: str) -> None:
        """End the current phase, and begin another, which is stored under `keys`."""
        self.end()
        self._name, self._keys = name, keys

    def end(self) -> None:
        """End the current phase."""
        phase = Phase(self._name, self._peak, tuple(self._small_peak), self._large_peak)
        self.phases.update(dict.fromkeys(self._keys, phase))
        self._name, self._keys = "", ()
        self._reset()

    def _reset(self) -> None:
        self._peak = self.held
        self._small_peak = self._held[:_COUNT]
        self._large_peak, self._highest = self._large, self._total

    def take(self, kind: int, size: int) -> None:
        """Add `size` bytes of KINDS[kind]."""
        self._total += size
        if size < KEPT:
            self._held[kind] += size
            self._small_peak[kind] = max(self._small_peak[kind], self._held[kind])
        else:
            self._held[_COUNT + kind] += size
            self._large += size
            self._large_peak = max(self._large_peak, self._large)
        if self._total > self._highest:
            self._highest, self._peak = self._total, self.held

    def give(self, kind: int, size: int) -> None:
        """Remove `size` bytes of KINDS[kind]."""
        self._total -= size
        if size < KEPT:
            self._held[kind] -= size
        else:
            self._held[_COUNT + kind] -= size
            self._large -= size
