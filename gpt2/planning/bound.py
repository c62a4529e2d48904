"""An upper bound on the memory of a step, in plain numbers.

Tracing a step takes more than a second in a new process. Most runs need far less memory than there
is: a run that fits with this bound starts without a trace. A test checks that it is above the
traced peak.
"""

from __future__ import annotations

from gpt2.planning.ledger import Peak
from gpt2.planning.step_shape import FP32, StepShape

#: Activations of a token in a layer: vectors of the model's width, and, where attention scores are
#: kept, numbers for each token that a head attends to.
_VECTORS, _SCORES = 48, 10
#: Copies of the logits, of the tied matrix, and of all parameters (weights, gradients, casts).
_LOGITS, _MATRICES, _COPIES = 5, 4, 3


def bound_of(shape: StepShape) -> Peak:
    """Return a peak that a step of `shape` does not exceed."""
    scores = 0 if shape.attention == "fused" else _SCORES * shape.heads * shape.block
    numbers = shape.tokens * (shape.layers + 1) * (_VECTORS * shape.width + scores)
    chunk = shape.tokens * shape.vocabulary
    if shape.chunk_mib is not None:  # a chunk has at least 16 rows, or all there are
        size = 2 if shape.fused or (shape.cpu_kernels and shape.mixed) else FP32
        chunk = min(chunk, max(shape.chunk_mib * 2**20 // size, 16 * shape.vocabulary))
    numbers += _LOGITS * chunk + _MATRICES * shape.embedding + _COPIES * shape.parameters
    size = FP32 * numbers + shape.state + shape.step + shape.masks + shape.event
    size += shape.checkpoint if shape.copied else 0
    return Peak("bound", {"workspace": size}, size)
