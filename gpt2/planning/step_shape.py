"""The shape of a training step: the plain numbers that determine its memory."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes of an fp32 number, such as a weight or gradient.
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
    precision: `fp32`, or the dtype of products under autocast: `bf16` or `fp16`.
    attention: `fused` (no T x T matrix), `math` (torch's plain kernel) or `written out` (ours).
    dropout: there is dropout, also outside attention.
    cpu_kernels: a CPU computes it, not a GPU: dropout masks are numbers, not bytes, and sums over
        two dtypes cast one of them.
    chunk_mib: MiB of logits at a time; None: all at once.
    tall: the logits are one fp32 buffer.
    fused: the logits are one buffer in the dtype of the products, counted in 16 bits.
    checkpointing: `none`, `selective` or `full`.
    half_residual: the residual stream is bf16, not fp32.
    state, step: bytes of the optimizer's state, and of its step's temporary tensors.
    masks, event: bytes that pruning holds, and of a pruning event's temporary tensors.
    copied: a copy of the checkpoint is held, too, written while training continues.
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
        """Return whether products are in 16 bits."""
        return self.precision != "fp32"

    @property
    def checkpoint(self) -> int:
        """Return the bytes in a checkpoint: weights, optimizer state and masks."""
        return FP32 * self.parameters + self.state + self.masks

    @property
    def tokens(self) -> int:
        """Return the tokens of a micro-batch."""
        return self.batch * self.block

    @property
    def parameters(self) -> int:
        """Return the parameters of the model; the tied matrix counts once."""
        return parameter_count(self.layers, self.width, self.block, self.vocabulary, self.bias)

    @property
    def embedding(self) -> int:
        """Return the size of the tied matrix, in numbers."""
        return self.vocabulary * self.width
