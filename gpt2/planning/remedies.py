"""Whether a run fits, and if not, the cheapest changes that make it fit; plain numbers only."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpt2.planning.bound import bound_of
from gpt2.planning.ledger import Peak
from gpt2.planning.step import peak_of
from gpt2.planning.step_shape import FP32, StepShape

#: The allocator's reserve over the allocated bytes, since it rounds and leaves holes. Assumed; a
#: measurement on the card replaces it.
RESERVED = 1.06
#: The heap of a CPU process over its content. Measured (docs/benchmarks.md).
HEAP = 1.07
#: Memory of a card that CUDA itself takes. Assumed.
CONTEXT = 600_000_000
#: Number of changes that are shown.
_SHOWN = 3


@dataclass(frozen=True)
class MemoryBudget:
    """The memory available to a step: its name, its bytes, and other uses.

    size: its bytes; None: unknown.
    reserved: factor from allocated to taken bytes.
    besides: bytes for other uses, such as CUDA or Python.
    heap: it is a process's memory on a CPU, see Peak.resident.
    most: its bytes if no other program used any.
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

    def beyond(self, peak: int, resident: int) -> list[tuple[str, int, str]]:
        """Return what needed() adds to the bytes of a peak: a name, bytes and an explanation each.

        peak, resident: Peak.total and Peak.resident.
        """
        taken = resident if self.heap else peak
        share = f"{self.reserved - 1:.0%}"
        if self.heap:
            name, what = "fragments", f"{share}: holes in the heap"
        else:
            name, what = "reserve", f"{share}: what the allocator reserves"
        return [
            ("kept by heap", taken - peak, "small blocks of the other phases"),
            (name, round(self.reserved * taken) - taken, what),
            ("CUDA", self.besides, "assumed, not measured"),
        ]

    def fits(self, shape: StepShape, roughly: bool = False) -> bool:
        """Return whether a step of `shape` fits; `roughly`: whether its upper bound does."""
        peak = bound_of if roughly else peak_of
        return self.size is None or self.needed(peak(shape)) <= self.size


#: Turns a step into one that needs less memory.
Changed = Callable[[StepShape], StepShape]


@dataclass(frozen=True)
class Alternative:
    """A way to compute the same step, or almost: its flags, and what it costs."""

    flags: str
    cost: str
    change: Changed


@dataclass(frozen=True)
class Remedy:
    """A change that makes a run fit: flags, cost in words, and the resulting step."""

    flags: str
    cost: str
    shape: StepShape


def micro_batches(effective: int, most: int) -> Iterator[int]:
    """Yield the micro-batches up to `most` that divide `effective`, the largest first."""
    return (size for size in range(min(most, effective), 0, -1) if effective % size == 0)


def largest(shape: StepShape, effective: int, most: int, budget: MemoryBudget) -> int | None:
    """Return the largest micro-batch that fits, of those that divide the effective batch.

    A peak takes a good part of a second, and is nearly affine in the micro-batch: the search tries
    the size at which a straight line crosses the budget.
    """
    sizes = [0, *sorted(micro_batches(effective, most))]
    held = shape.checkpoint + FP32 * shape.parameters  # with gradients, for any micro-batch

    def at(place: int) -> StepShape:
        return with_batch(shape, sizes[place], effective)

    def needed(place: int) -> int:
        return budget.needed(peak_of(at(place)) if place else Peak("", {"parameters": held}, held))

    low, high = 0, len(sizes) - 1  # low fits, high does not
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
    """Return changes with which `shape` fits, the cheapest first.

    Each of `ways` is tried with the largest micro-batch that fits, and first no change at all. A
    way that fits no larger micro-batch than a cheaper one is left out.
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
