"""A bound that the memory of a step never exceeds, in plain numbers.

To trace a step takes more than a second in a new process. Most runs need far less than there is:
one that fits with this bound starts without. A test holds it above the traced peak.
"""

from __future__ import annotations

from gpt2.planning.ledger import Peak
from gpt2.planning.work import FP32, Work

#: Activations of a token in a layer: vectors of the model's width, and numbers for each token that
#: a head attends to, where those are held.
_VECTORS, _SCORES = 48, 10
#: Copies of the logits, of the tied matrix, and of all parameters: weights, gradients, formats.
_LOGITS, _MATRICES, _COPIES = 5, 4, 3


def bound_of(work: Work) -> Peak:
    """Return a peak that a step of `work` does not exceed."""
    scores = 0 if work.attention == "fused" else _SCORES * work.heads * work.block
    numbers = work.tokens * (work.layers + 1) * (_VECTORS * work.width + scores)
    chunk = work.tokens * work.vocabulary
    if work.chunk_mib is not None:  # a chunk has 16 rows, or the fewer that there are, at least
        chunk = min(chunk, max(work.chunk_mib * 2**20 // FP32, 16 * work.vocabulary))
    numbers += _LOGITS * chunk + _MATRICES * work.embedding + _COPIES * work.parameters
    size = FP32 * numbers + work.state + work.step + work.masks + work.event
    size += work.checkpoint if work.copied else 0
    return Peak("bound", {"workspace": size}, size)
