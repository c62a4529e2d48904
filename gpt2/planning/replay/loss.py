"""The loss in shadow, form by form: from the hidden states (N, d) to a number. V ids."""

from __future__ import annotations

from gpt2.planning.replay.operations import Operations
from gpt2.planning.replay.shape import FP32
from gpt2.planning.replay.tape import Storage, Tensor


def full_loss(ops: Operations, hidden: Tensor, weight: Tensor) -> Tensor:
    """All logits at once: full_loss of gpt2/model/loss.py."""
    work, tape = ops.work, ops.tape
    count = work.tokens * work.vocabulary

    def logits_like(size: int, inputs: list[Tensor], saved: list[Tensor]) -> Tensor:
        made = ops.made(size, inputs, saved)
        made.storage.become("logits")
        return made

    narrow, held = ops.cast(hidden), ops.weight(weight)
    logits = logits_like(work.number * count, [narrow, held], [narrow, held])
    del narrow
    raised = logits_like(FP32 * count, [logits], []) if work.mixed else logits
    chances = logits_like(FP32 * count, [raised], [])
    tape.save_output(chances)
    return ops.made(FP32, [chances], [chances])


def chunked_loss(ops: Operations, hidden: Tensor, weight: Tensor) -> Tensor:
    """Some rows at a time, with the gradients made along: chunked_loss of gpt2/model/loss.py."""
    work, tape = ops.work, ops.tape
    assert work.loss_rows is not None
    rows = min(work.loss_rows, work.tokens)
    logits, chunk = rows * work.vocabulary, rows * work.width
    matrix = FP32 * work.embedding
    head = tape.new(matrix // 2, "workspace") if work.mixed else None
    gradients = [tape.new(hidden.size), tape.new(matrix, "workspace")]
    buffers = [tape.new(FP32 * logits, "logits")]
    if not work.tall:
        buffers.append(tape.new(work.number * logits, "logits"))
    if work.mixed:  # the chunk in 16 bits, and its share of the head's gradient
        tape.ledger.brief("workspace", 4 * chunk + matrix // 2)
    else:
        tape.ledger.brief("workspace", FP32 * chunk)
    del buffers, head
    out: list[Storage] = gradients
    return tape.record([FP32], [hidden, weight], [], lambda _: [out.pop(0), out.pop(0)])[0]
