"""The peak of a training step: traced for a few layers, extrapolated to all."""

from __future__ import annotations

import dataclasses
import functools

from gpt2.planning.ledger import KINDS, NOTHING, Bytes, Peak, Phase, block, peak_over, plus
from gpt2.planning.step_shape import StepShape
from gpt2.planning.trace import Traced, trace

_GRADIENTS = KINDS.index("gradients")


def peak_of(shape: StepShape) -> Peak:
    """Return the peak of a step after the first, when all optimizer state exists."""
    traced = _of_layers(shape)
    held = NOTHING
    for kind, size in (
        ("optimizer state", shape.state),
        ("masks", shape.masks),
        ("checkpoint copy", shape.checkpoint if shape.copied else 0),
    ):
        held = plus(held, block(kind, size))
    after = plus(traced.after, held)
    without = tuple(0 if i % len(KINDS) == _GRADIENTS else n for i, n in enumerate(after))
    return peak_over(
        [
            *(phase.shifted(held) for phase in traced.phases.values()),
            _brief("optimizer step", after, shape.step),
            _brief("pruning event", without, shape.event),
        ]
    )


def _brief(name: str, held: Bytes, size: int) -> Phase:
    """Return a phase in which a block of `size` bytes of workspace is held briefly."""
    peak, count = plus(held, block("workspace", size)), len(KINDS)
    return Phase(name, peak, peak[:count], sum(peak[count:]))


def _of_layers(shape: StepShape) -> Traced:
    one, two = (
        dataclasses.replace(shape, layers=layers, state=0, step=0, masks=0, event=0, copied=False)
        for layers in (1, 2)
    )
    if shape.layers <= 2:
        return _traced((one, two)[shape.layers - 1])
    return _traced(one).deeper(_traced(two), shape.layers)


@functools.lru_cache(maxsize=256)
def _traced(shape: StepShape) -> Traced:
    return trace(shape)
