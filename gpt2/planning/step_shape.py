"""What one training step computes, in the plain numbers that its memory follows from."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes of a number in fp32, in which weights and gradients are held.
FP32 = 4


def parameter_count(layers: int, width: int, block: int, vocabulary: int, bias: bool) -> int:
    """Return the number of parameters of a model; the tied matrix counts once."""
    d, biases = width, int(bias)
    of_block = 12 * d * d + biases * 9 * d + 2 * (1 + biases) * d
    return (vocabulary + block) * d + layers * of_block + (1 + biases) * d


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """A training step: the model's shape, the micro-batch, and how it is computed.

    accumulated: gradients are kept from one micro-step to the next.
    precision: `fp32`, or the format of products under autocast: `bf16` or `fp16`.
    attention: `fused` (no T x T matrix), `math` (torch's plain kernel) or `written out` (ours).
    dropout: numbers are dropped out, outside attention too.
    cpu_kernels: a CPU computes it, and not a GPU: dropout keeps its mask as numbers and not as
    bytes, and sums of numbers of two formats copy them into one.
    chunk_mib: MiB of logits at a time, None for all at once. tall: they are one fp32 buffer.
    fused: they are one buffer in the format of the products, and counted in 16 bits.
    checkpointing: `none`, `selective` or `full`.
    half_residual: the residual stream is held in bf16, and not in fp32.
    state, step: bytes of the optimizer's state, and of its step's temporary tensors.
    masks, event: bytes that pruning holds, and of a pruning event's temporary tensors.
    copied: a copy of the checkpoint is held too, to be written while training continues.
    """

    layers: int
    heads: int
    width: int
    block: int
    vocabulary: int
    bias: bool
    batch: int
    accumulated: bool
    precision: str
    attention: str
    dropout: bool
    cpu_kernels: bool
    chunk_mib: int | None
    tall: bool
    fused: bool
    checkpointing: str
    state: int
    step: int
    masks: int = 0
    event: int = 0
    copied: bool = False
    half_residual: bool = False

    @property
    def mixed(self) -> bool:
        """Whether products are made in 16 bits."""
        return self.precision != "fp32"

    @property
    def checkpoint(self) -> int:
        """Bytes that a checkpoint holds: weights, optimizer state and masks."""
        return FP32 * self.parameters + self.state + self.masks

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.batch * self.block

    @property
    def parameters(self) -> int:
        """Parameters of the model; the tied matrix counts once."""
        return parameter_count(self.layers, self.width, self.block, self.vocabulary, self.bias)

    @property
    def embedding(self) -> int:
        """Numbers of the tied matrix."""
        return self.vocabulary * self.width
