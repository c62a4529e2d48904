"""torch's operations in shadow: what each makes, saves, and makes again in the backward pass.

Sizes are in bytes, counts in numbers. A gradient has the size of what it is the gradient of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gpt2.planning.replay.shape import FP32, Work
from gpt2.planning.replay.tape import Parameter, Storage, Tape, Tensor


class Operations:
    """The operations of a step of `work`, on `tape`."""

    def __init__(self, work: Work, tape: Tape) -> None:
        self.work, self.tape = work, tape
        self.parameters: list[Parameter] = []
        self._casts: dict[Parameter, Tensor] = {}  # autocast's cache of weights in 16 bits
        self._held: list[Storage] = []

    def parameter(self, count: int) -> Tensor:
        """Return a parameter, with its gradient where those are kept between micro-steps."""
        node = Parameter(count)
        if self.work.accumulated:
            node.grad = self.tape.new(FP32 * count, "gradients")
        self.parameters.append(node)
        tensor = Tensor(self.tape.new(FP32 * count, "parameters"), FP32 * count)
        tensor.node = node
        return tensor

    def made(
        self, size: int, inputs: Sequence[Tensor], saved: Sequence[Tensor | Storage]
    ) -> Tensor:
        """Return a new tensor; the backward pass makes the gradient of each of `inputs`."""
        tape, sizes = self.tape, [x.size for x in inputs]
        return tape.record([size], inputs, saved, lambda _: [tape.new(size) for size in sizes])[0]

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        """Return views of equal parts of x; their gradients are put together into x's."""
        tape, size = self.tape, x.size
        sizes = [size // parts] * parts
        return tape.record(sizes, [x], [], lambda _: [tape.new(size)], storage=x.storage)

    def clone(self, x: Tensor, size: int | None = None) -> Tensor:
        """Return x laid out anew, or as numbers of another format that are `size` bytes."""
        return self.made(size or x.size, [x], [])

    def cast(self, x: Tensor) -> Tensor:
        """Return fp32 numbers in the format of products."""
        return self.clone(x, x.size // 2) if self.work.mixed else x

    def weight(self, weight: Tensor) -> Tensor:
        """Return a weight in the format of products; autocast makes it once."""
        node = weight.node
        assert isinstance(node, Parameter)
        if not self.work.mixed:
            return weight
        if node not in self._casts:
            self._casts[node] = self.cast(weight)
        return self._casts[node]

    def leave_autocast(self) -> None:
        """Forget the weights in 16 bits."""
        self._casts = {}

    def linear(self, x: Tensor, weight: Tensor, out: int) -> Tensor:
        """A product of x, in the format of products, with a weight into `out` bytes."""
        held = self.weight(weight)
        return self.made(out, [x, held], [x, held])

    def matmul(self, x: Tensor, y: Tensor, out: int) -> Tensor:
        """A product of two activations into `out` bytes."""
        return self.made(out, [x, y], [x, y])

    def norm(self, x: Tensor) -> Tensor:
        """A layer norm over x (N, d), in fp32."""
        stats = self.tape.new(2 * FP32 * self.work.tokens)
        return self.made(x.size, [x], [x, stats])

    def gelu(self, x: Tensor) -> Tensor:
        """The GELU of x."""
        return self.made(x.size, [x], [x])

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The fp32 stream x with y, which may be of 16 bits, added."""
        tape, narrow = self.tape, y.size

        # Of a sum, each part has the sum's gradient, in its own format.
        def backward(grads: Mapping[int, Storage]) -> list[Storage]:
            (grad,) = grads.values()
            return [grad, grad if grad.size == narrow else tape.new(narrow)]

        return tape.record([x.size], [x, y], [], backward)[0]

    def dropout(self, x: Tensor, number: int) -> Tensor:
        """Some of the numbers of x, of `number` bytes each, set to zero."""
        if not self.work.dropout:
            return x
        mask = self.tape.new(x.size if self.work.wide_masks else x.size // number)
        return self.made(x.size, [x], [mask])

    def recomputed(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), of which only x is kept; the rest is made again in the backward pass."""

        def again() -> None:
            outside, self._casts = self._casts, {}
            try:
                function(x)
            finally:
                self._casts = outside

        return self.tape.checkpoint(lambda: function(x), again)
