"""Whether a run fits, and if not, the smallest changes that make it: plain numbers in and out."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpt2.planning.bound import bound_of
from gpt2.planning.ledger import Peak
from gpt2.planning.step import peak_of
from gpt2.planning.step_shape import FP32, StepShape

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
class MemoryBudget:
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

    def fits(self, shape: StepShape, roughly: bool = False) -> bool:
        """Whether a step of `shape` fits; `roughly`: whether what it never exceeds does."""
        peak = bound_of if roughly else peak_of
        return self.size is None or self.needed(peak(shape)) <= self.size


#: Turns a step into one that needs less.
Changed = Callable[[StepShape], StepShape]


@dataclass(frozen=True)
class Alternative:
    """A way to compute the same step, or nearly: the flags that choose it, and what it costs."""

    flags: str
    cost: str
    change: Changed


@dataclass(frozen=True)
class Remedy:
    """A change that makes a run fit: flags, cost in words, and the step it gives."""

    flags: str
    cost: str
    shape: StepShape


def micro_batches(effective: int, most: int) -> Iterator[int]:
    """Yield the micro-batches of at most `most` that divide `effective`, the largest first."""
    return (size for size in range(min(most, effective), 0, -1) if effective % size == 0)


def largest(shape: StepShape, effective: int, most: int, budget: MemoryBudget) -> int | None:
    """Return the largest micro-batch that fits, of those that divide the effective batch.

    A peak takes a good part of a second, and is nearly affine in the micro-batch: the search tries
    the size at which a straight line crosses what there is.
    """
    sizes = [0, *sorted(micro_batches(effective, most))]
    held = shape.checkpoint + FP32 * shape.parameters  # with gradients, whatever the micro-batch

    def at(place: int) -> StepShape:
        return with_batch(shape, sizes[place], effective)

    def needed(place: int) -> int:
        return budget.needed(peak_of(at(place)) if place else Peak("", {"parameters": held}, held))

    low, high = 0, len(sizes) - 1  # the one fits, the other does not
    if budget.size is not None and needed(low) > budget.size:
        return None
    if budget.fits(at(high)):
        return sizes[high]
    while high - low > 1:
        middle = (low + high) // 2
        if budget.size is not None:
            share = (budget.size - needed(low)) / max(1, needed(high) - needed(low))
            size = sizes[low] + share * (sizes[high] - sizes[low])
            middle = min(max(bisect.bisect_right(sizes, size) - 1, low + 1), high - 1)
        if budget.fits(at(middle)):
            low = middle
        else:
            high = middle
    return sizes[low] or None


def with_batch(shape: StepShape, size: int, effective: int) -> StepShape:
    """Return the step with micro-batches of `size`, accumulated to the effective batch."""
    return dataclasses.replace(shape, batch=size, accumulated=size < effective)


def remedies(
    shape: StepShape, effective: int, budget: MemoryBudget, ways: Sequence[Alternative]
) -> list[Remedy]:
    """Return changes with which `shape` fits, those that cost least first.

    Each of `ways` is tried with the micro-batch that fits, the first of none at all; one that only
    fits with a micro-batch no larger than a cheaper one's is left out.
    """
    found: list[Remedy] = []
    held = 0
    for way in (Alternative("", "", lambda same: same), *ways):
        changed = way.change(shape)
        size = largest(changed, effective, shape.batch, budget)
        if size is None or size <= held:
            continue
        held = size
        flags, costs = [way.flags], [way.cost]
        if size != shape.batch:
            flags.append(f"--batch-size {size} --gradient-accumulation {effective // size}")
            costs.append("the same steps in smaller parts")
        found.append(
            Remedy(
                " ".join(filter(None, flags)),
                ", ".join(filter(None, costs)),
                with_batch(changed, size, effective),
            )
        )
        if size == shape.batch or len(found) == _SHOWN:
            break
    return found
