"""Whether a run fits, and if not, the smallest changes that make it: plain numbers in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpt2.planning.replay.ledger import Peak
from gpt2.planning.replay.shape import Work
from gpt2.planning.replay.step import peak_of

#: The allocator rounds and leaves holes: what it reserves over what is allocated. Assumed; a figure
#: measured on the card takes its place.
RESERVED = 1.06
#: What the heap of a process on a CPU takes over what lies in it. Measured (docs/benchmarks.md).
HEAP = 1.07
#: What CUDA itself takes of a card. Assumed.
CONTEXT = 600_000_000
#: Changes that are shown.
_SHOWN = 3


@dataclass(frozen=True)
class Pool:
    """Memory that the step takes from: its name, its bytes, and what is not the step's.

    reserved: bytes that are taken of it over those allocated, as a factor. besides: bytes that
    others take, such as CUDA or Python. size None: how large it is is not known. heap: it is a
    process's memory on a CPU, see Peak.resident. most: its bytes if no other program had any.
    """

    name: str
    size: int | None
    reserved: float = 1.0
    besides: int = 0
    heap: bool = False
    most: int | None = None

    def needed(self, peak: Peak) -> int:
        """Return the bytes that a step of `peak` needs of it."""
        taken = peak.resident if self.heap else peak.total
        return round(self.reserved * taken) + self.besides

    def fits(self, work: Work) -> bool:
        """Whether a step of `work` fits."""
        return self.size is None or self.needed(peak_of(work)) <= self.size


#: Turns a step into one that needs less.
Changed = Callable[[Work], Work]


@dataclass(frozen=True)
class Way:
    """A way to compute the same step, or nearly: the flags that choose it, and what it costs."""

    flags: str
    cost: str
    change: Changed


@dataclass(frozen=True)
class Fix:
    """A change that makes a run fit: flags, cost in words, and the step it gives."""

    flags: str
    cost: str
    work: Work


def micro_batches(effective: int, most: int) -> Iterator[int]:
    """Yield the micro-batches of at most `most` that divide `effective`, the largest first."""
    return (size for size in range(min(most, effective), 0, -1) if effective % size == 0)


def largest(work: Work, effective: int, most: int, pool: Pool) -> int | None:
    """Return the largest micro-batch that fits, of those that divide the effective batch."""
    for size in micro_batches(effective, most):
        if pool.fits(with_batch(work, size, effective)):
            return size
    return None


def with_batch(work: Work, size: int, effective: int) -> Work:
    """Return the step with micro-batches of `size`, accumulated to the effective batch."""
    return dataclasses.replace(work, batch=size, accumulated=size < effective)


def fixes(work: Work, effective: int, pool: Pool, ways: Sequence[Way]) -> list[Fix]:
    """Return changes with which `work` fits, those that cost least first.

    Each of `ways` is tried with the micro-batch that fits, the first of none at all; one that only
    fits with a micro-batch no larger than a cheaper one's is left out.
    """
    found: list[Fix] = []
    held = 0
    for way in (Way("", "", lambda same: same), *ways):
        changed = way.change(work)
        size = largest(changed, effective, work.batch, pool)
        if size is None or size <= held:
            continue
        held = size
        flags, costs = [way.flags], [way.cost]
        if size != work.batch:
            flags.append(f"--batch-size {size} --gradient-accumulation {effective // size}")
            costs.append("the same steps in smaller parts")
        found.append(
            Fix(
                " ".join(filter(None, flags)),
                ", ".join(filter(None, costs)),
                with_batch(changed, size, effective),
            )
        )
        if size == work.batch or len(found) == _SHOWN:
            break
    return found
