"""Attention in shadow, form by form: from q, k and v to what the last product reads.

B is the batch, H the heads, T the context, D the width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt2.planning.replay.operations import Operations
from gpt2.planning.replay.shape import FP32
from gpt2.planning.replay.tape import Tensor


def fused(ops: Operations, parts: Sequence[Tensor]) -> Tensor:
    """A kernel that never holds a T x T matrix: it keeps what it read, its result, its sums."""
    work = ops.work
    sums = ops.tape.new(FP32 * work.batch * work.heads * work.block)
    out = ops.made(parts[0].size, parts, [*parts, sums])
    ops.tape.save_output(out)
    return out


def math(ops: Operations, parts: Sequence[Tensor]) -> Tensor:
    """Torch's plain kernel, which a CPU takes when attention drops out: fp32 in between."""
    work = ops.work
    size, wide = parts[0].size, FP32 * work.tokens * work.width
    matrix = FP32 * work.batch * work.heads * work.block**2
    q, k, v = (ops.clone(x, wide) if work.mixed else x for x in parts)
    scaled, transposed = ops.clone(q), ops.clone(k)
    scores = ops.matmul(ops.clone(scaled), ops.clone(transposed), matrix)
    del scaled
    scores = ops.made(matrix, [scores], [])  # what comes later is masked
    weights = ops.made(matrix, [scores], [])
    ops.tape.save_output(weights)
    del scores
    weights = ops.dropout(weights, FP32)
    given = ops.clone(weights, matrix // 2) if work.mixed else None
    out = ops.matmul(weights, ops.clone(v), wide)
    out = ops.clone(out, size) if work.mixed else out
    del given
    return ops.clone(out)


def written_out(ops: Operations, parts: Sequence[Tensor]) -> Tensor:
    """explicit_attention of gpt2/model/attention.py."""
    work = ops.work
    q, k, v = parts
    count = work.batch * work.heads * work.block**2
    scores = ops.matmul(ops.clone(q), ops.clone(k), work.number * count)
    scores = ops.made(scores.size, [scores], [])  # divided
    future = ops.tape.new(work.block**2)
    raised = ops.clone(scores, FP32 * count) if work.mixed else scores
    masked = ops.made(FP32 * count, [raised], [future])
    del raised
    weights = ops.made(FP32 * count, [masked], [])
    ops.tape.save_output(weights)
    del masked
    weights = ops.clone(weights, work.number * count) if work.mixed else weights
    out = ops.matmul(ops.dropout(weights, work.number), ops.clone(v), q.size)
    del scores
    return ops.clone(out)


CORES: dict[str, Callable[[Operations, Sequence[Tensor]], Tensor]] = {
    "fused": fused,
    "math": math,
    "written out": written_out,
}
