"""The peak of a training step: traced for a few layers, and extrapolated to all."""

from __future__ import annotations

import dataclasses
import functools

from gpt2.planning.ledger import KINDS, NOTHING, Bytes, Peak, Phase, block, peak_over, plus
from gpt2.planning.trace import Traced, trace
from gpt2.planning.work import Work

_GRADIENTS = KINDS.index("gradients")


def peak_of(work: Work) -> Peak:
    """Return the peak of a step, from the second one on, when all optimizer state is there."""
    traced = _of_layers(work)
    held = NOTHING
    for kind, size in (
        ("optimizer state", work.state),
        ("masks", work.masks),
        ("checkpoint copy", work.checkpoint if work.copied else 0),
    ):
        held = plus(held, block(kind, size))
    after = plus(traced.after, held)
    without = tuple(0 if i % len(KINDS) == _GRADIENTS else n for i, n in enumerate(after))
    return peak_over(
        [
            *(phase.shifted(held) for phase in traced.phases.values()),
            _brief("optimizer step", after, work.step),
            _brief("pruning event", without, work.event),
        ]
    )


def _brief(name: str, held: Bytes, size: int) -> Phase:
    """Return a phase in which a block of `size` bytes of workspace is held for a moment."""
    peak, count = plus(held, block("workspace", size)), len(KINDS)
    return Phase(name, peak, peak[:count], sum(peak[count:]))


def _of_layers(work: Work) -> Traced:
    one, two = (
        dataclasses.replace(work, layers=layers, state=0, step=0, masks=0, event=0, copied=False)
        for layers in (1, 2)
    )
    if work.layers <= 2:
        return _traced((one, two)[work.layers - 1])
    return _traced(one).deeper(_traced(two), work.layers)


@functools.lru_cache(maxsize=256)
def _traced(work: Work) -> Traced:
    return trace(work)
