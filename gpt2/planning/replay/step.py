"""One training step in shadow: gpt2/model and its loss written once more, in sizes.

Where the model changes, this changes with it: a test holds both against torch's MemTracker. What is
far below the size of an activation (biases, sums of a few numbers) is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from gpt2.planning.replay.attention import CORES
from gpt2.planning.replay.ledger import Ledger, Peak
from gpt2.planning.replay.loss import chunked_loss, full_loss
from gpt2.planning.replay.operations import Operations
from gpt2.planning.replay.shape import FP32, Work
from gpt2.planning.replay.tape import Tape, Tensor


def peak_of(work: Work, in_place: bool = True) -> Peak:
    """Return the peak of a step, from the second one on, when all optimizer state is there.

    For `in_place` see Tape.
    """
    ledger = Ledger()
    _Step(work, Tape(ledger, in_place)).run()
    return ledger.peak


class _Step:
    def __init__(self, work: Work, tape: Tape) -> None:
        self.work, self.tape, self.ops = work, tape, Operations(work, tape)
        self.wide = FP32 * work.tokens * work.width  # an activation (N, d) in the residual stream
        self.narrow = work.number * work.tokens * work.width  # and out of a product
        d = work.width
        weights = [3 * d * d, d * d, 4 * d * d, 4 * d * d]
        self.wte = self.ops.parameter(work.embedding)
        self.wpe = self.ops.parameter(work.block * d)
        self.blocks = [[self.ops.parameter(n) for n in weights] for _ in range(work.layers)]
        rest = work.parameters - sum(node.count for node in self.ops.parameters)
        self.vectors = self.ops.parameter(rest)  # biases and norms, all together

    def run(self) -> None:
        work, tape, ledger = self.work, self.tape, self.tape.ledger
        held = [tape.new(work.state, "optimizer state"), tape.new(work.masks, "masks")]
        held.append(tape.new(work.checkpoint if work.copied else 0, "checkpoint copy"))
        held.append(tape.new(2 * 8 * work.tokens, "workspace"))  # ids and targets
        ledger.phase = "forward pass"
        loss = self._loss(self._transformer())
        self.ops.leave_autocast()
        ledger.phase = "backward pass"
        node = loss.node
        assert node is not None
        del loss
        tape.backward(node, tape.new(FP32))
        del node
        self._vector_gradients()
        ledger.phase = "optimizer step"
        ledger.brief("workspace", work.step)
        ledger.phase = "pruning event"
        for parameter in self.ops.parameters:
            parameter.grad = None
        ledger.brief("workspace", work.event)

    def _vector_gradients(self) -> None:
        for parameter in self.ops.parameters:
            if parameter.grad is None:
                parameter.grad = self.tape.new(FP32 * parameter.count, "gradients")

    def _transformer(self) -> Tensor:
        ops, work = self.ops, self.work
        tokens = ops.made(self.wide, [self.wte], [])
        positions = ops.made(FP32 * work.block * work.width, [self.wpe], [])
        x = ops.add(tokens, positions)
        del tokens, positions
        x = ops.dropout(x, FP32)
        for weights in self.blocks:
            x = self._block(x, weights)
        return ops.norm(x)

    def _block(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        def after(x: Tensor) -> Tensor:
            x = self.ops.add(x, self._attention(x, *weights[:2]))
            return self.ops.add(x, self._mlp(x, *weights[2:]))

        return self.ops.recomputed(after, x) if self.work.checkpointing == "full" else after(x)

    def _attention(self, x: Tensor, c_attn: Tensor, c_proj: Tensor) -> Tensor:
        ops = self.ops
        qkv = self._linear_of(ops.norm, x, c_attn, 3 * self.narrow)
        parts = ops.split(qkv, 3)
        mixed = CORES[self.work.attention](ops, parts)
        out = ops.linear(mixed, c_proj, self.narrow)
        return ops.dropout(out, self.work.number)

    def _mlp(self, x: Tensor, c_fc: Tensor, c_proj: Tensor) -> Tensor:
        ops = self.ops
        x = self._linear_of(ops.norm, x, c_fc, 4 * self.narrow)
        x = self._linear_of(ops.gelu, x, c_proj, self.narrow)
        return ops.dropout(x, self.work.number)

    def _linear_of(
        self, inner: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, out: int
    ) -> Tensor:
        def after(x: Tensor) -> Tensor:
            made = inner(x)
            narrow = made if inner == self.ops.gelu else self.ops.cast(made)
            return self.ops.linear(narrow, weight, out)

        recompute = self.work.checkpointing == "selective"
        return self.ops.recomputed(after, x) if recompute else after(x)

    def _loss(self, hidden: Tensor) -> Tensor:
        self.tape.ledger.phase = "loss"
        form = full_loss if self.work.loss_rows is None else chunked_loss
        return form(self.ops, hidden, self.wte)
