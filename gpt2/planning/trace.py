"""Trace one training step of the real model on fake tensors, for any number of layers.

Fake tensors are CPU tensors, also when another device is planned: torch without CUDA has no others.
Where kernels differ, the model computes in the planned device's form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2.config.typed import ModelConfig
from gpt2.model.build import empty_model
from gpt2.model.form import Form
from gpt2.model.language_model import LanguageModel
from gpt2.model.softmax import padded_rows
from gpt2.planning.follow import Follow
from gpt2.planning.ledger import KINDS, Bytes, Phase, between
from gpt2.planning.step_shape import StepShape

#: Chunks of the loss that are traced: the second reuses the memory of the first.
_CHUNKS = 2
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_PARAMETERS, _GRADIENTS, _ACTIVATIONS, _LOGITS, _WORKSPACE = (
    KINDS.index(kind) for kind in ("parameters", "gradients", "activations", "logits", "workspace")
)


@dataclass(frozen=True)
class Traced:
    """The phases of a step before the optimizer's, by name, and the bytes held after them.

    Of the layers it has the last one's forward pass, and the first and last one's backward pass:
    between them peaks rise or fall linearly.
    """

    phases: dict[str, Phase]
    after: Bytes

    def deeper(self, two: Traced, layers: int) -> Traced:
        """Extrapolate to `layers` layers, from these phases for one layer and `two` for two.

        Each phase is affine in the number of layers, but their maximum is not: the number decides
        whether the backward pass peaks at the last layer or the first.
        """
        return Traced(
            {key: one.towards(two.phases[key], layers - 1) for key, one in self.phases.items()},
            between(self.after, two.after, layers - 1),
        )


def trace(shape: StepShape, fake: bool = True) -> Traced:
    """Return the phases of the forward and backward pass of a step of `shape`.

    With `fake` False the step runs on ordinary CPU tensors, for tests.
    """
    bytes_, fused = not shape.cpu_kernels, shape.attention == "fused"
    form = Form(
        tall=shape.tall,
        cuda=not shape.cpu_kernels,
        chunks=_CHUNKS,
        byte_masks=bytes_,
        unmasked=bytes_ and fused,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if fake:
            stack.enter_context(FakeTensorMode())
        if shape.attention == "math":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        tracer = _Tracer(shape, empty_model(_config(shape), shape.vocabulary, form))
        stack.enter_context(tracer.follow)
        tracer.run()
    return Traced(tracer.ledger.phases, tracer.ledger.held)


def _config(shape: StepShape) -> ModelConfig:
    return ModelConfig(
        model="custom",
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        block_size=shape.block,
        dropout=0.5 if shape.dropout else 0.0,
        bias=shape.bias,
        flash_attention=shape.attention != "written out",
        activation_checkpointing=shape.checkpointing,
        residual_precision="bf16" if shape.half_residual else "fp32",
        loss="full" if shape.chunk_mib is None else "fused" if shape.fused else "chunked",
        loss_chunk_mib=shape.chunk_mib,
        init_from=None,
        keep_sparsity=None,
    )


class _Tracer:
    """Runs a step and tells the ledger where each phase begins."""

    def __init__(self, shape: StepShape, model: LanguageModel) -> None:
        self._work, self._model = shape, model
        self.follow = Follow(kind=self._kind, cpu_kernels=shape.cpu_kernels)
        self.ledger = self.follow.ledger
        self._in_loss = False
        for parameter in model.parameters():
            self.follow.add(parameter, _PARAMETERS)
            if shape.accumulated:
                parameter.grad = torch.empty_like(parameter)
                self.follow.add(parameter.grad, _GRADIENTS)
            _register(parameter.register_post_accumulate_grad_hook, self._accumulated)
        layers = list(model.blocks)
        for layer in layers:
            self._mark(layer, layer is layers[0], layer is layers[-1])
        model.body.register_forward_hook(self._begin_loss)

    def run(self) -> None:
        """Run the forward and the backward pass."""
        shape = self._work
        ids = torch.zeros((shape.batch, shape.block), dtype=torch.int64)
        targets = torch.zeros_like(ids)
        for tensor in (ids, targets):
            self.follow.add(tensor, _WORKSPACE)
        self.ledger.begin("forward pass", "embedding forward")
        dtype = _DTYPES.get(shape.precision, torch.bfloat16)
        with torch.autocast("cpu", dtype=dtype, enabled=shape.mixed):
            loss = self._model(ids, targets)
        self._in_loss = False
        self._backward("loss")
        self.follow.backward = True
        loss.backward()
        self.ledger.end()

    def _mark(self, layer: nn.Module, first: bool, last: bool) -> None:
        """Begin phases where the layer's forward pass and its backward pass begin."""

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if first:
                _register(inputs[0].register_hook, lambda _: self._backward("embedding"))
            self.ledger.begin("forward pass", *["last forward"] * last)

        def after(_: nn.Module, __: object, output: Tensor) -> None:
            keys = ["last"] * last + ["first"] * first
            _register(output.register_hook, lambda _: self._backward(*keys))

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)

    def _backward(self, *keys: str) -> None:
        self.ledger.begin("backward pass", *(f"{key} backward" for key in keys))

    def _begin_loss(self, _: nn.Module, __: object, output: Tensor) -> None:
        _register(output.register_hook, lambda _: self._backward("norm"))
        self._in_loss = True
        self.ledger.begin("loss", "loss")

    def _accumulated(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.follow.add(parameter.grad, _GRADIENTS)

    def _kind(self, tensor: Tensor) -> int:
        if not self._in_loss:
            return _ACTIVATIONS
        shape, count = self._work, tensor.numel()
        rows = padded_rows(shape.vocabulary)  # of the head on a GPU
        if tensor.ndim == 2 and tensor.shape[0] in (shape.vocabulary, rows):
            return _WORKSPACE  # the head, or its gradient
        logits = count % shape.vocabulary == 0 or count % rows == 0
        return _LOGITS if logits and count > shape.tokens else _ACTIVATIONS


def _register(registers: Callable[..., object], hook: Callable[[Tensor], None]) -> None:
    """Call a method of torch's tensors that has no type annotations."""
    registers(hook)
