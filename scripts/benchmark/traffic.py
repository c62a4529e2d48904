"""Count what a training step computes and moves on a GPU, on fake tensors.

Nothing runs: tensors have sizes and no numbers. An operation moves what it reads and writes,
without caches. Compiled, adjacent elementwise operations and reductions are one kernel: it reads
each earlier tensor once, and writes those that are used after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gpt2.config.typed import Config
from gpt2.model.build import empty_model
from gpt2.model.form import Form
from gpt2.model.loss import chunk_mib
from gpt2.optim.adam_bf16 import Bf16StateAdam
from gpt2.optim.precision import DTYPES, Precision
from gpt2.training.assembly import build_optimizer

#: Passes of the fused softmax over its logits: two reads and one write.
_FUSED_PASSES = 3
_ATTENTION = "_scaled_dot_product"
#: Reductions that the compiler fuses with their neighbours.
_REDUCTIONS = ("sum", "mean", "native_layer_norm", "amax", "logsumexp", "linalg_vector_norm")
#: Elementwise operations without the tag, and those that only fill or copy.
_SIMPLE = ("copy_", "_to_copy", "clone", "native_dropout", "fill_", "zero_", "where")
_JOINING = ("cat", "stack", "zeros")
#: What writes into its first argument, or a tensor like it, without reading it.
_UNREAD = ("copy_", "fill_", "zero_", "new_ones", "new_zeros", "ones_like", "zeros_like")
#: Operations that touch one number per row, whatever the size of the tensor.
_SPARSE = ("index", "index_put_", "gather", "nll_loss_forward", "embedding")
_MADE_ONLY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


@dataclass
class Kernel:
    """A kernel: bytes it moves, FLOP of its matrix products, and whether it is in the loss."""

    name: str
    moved: int
    flops: float = 0.0
    loss: bool = False


@dataclass
class Traffic:
    """The kernels of one micro-step, forward and backward, and its number of aten operations."""

    kernels: list[Kernel] = field(default_factory=list)
    operations: int = 0

    @property
    def moved(self) -> int:
        """Return the bytes that all kernels move."""
        return sum(kernel.moved for kernel in self.kernels)

    @property
    def flops(self) -> float:
        """Return the FLOP of all matrix products."""
        return sum(kernel.flops for kernel in self.kernels)

    def seconds(self, flops: float, bandwidth: float) -> float:
        """Return the time at `flops` and `bandwidth` per second: each kernel by the slower one."""
        return sum(max(k.flops / flops, k.moved / bandwidth) for k in self.kernels)


def count(config: Config, vocabulary: int, precision: str, *, compiled: bool) -> Traffic:
    """Count a micro-step of `config` on a GPU, without the optimizer."""
    chunk = config.model.loss_chunk_mib
    if chunk is not None:
        chunk = chunk_mib(chunk, "cuda", config.model.loss == "fused")
    model_config = dataclasses.replace(config.model, loss_chunk_mib=chunk)
    form = Form(tall=False, cuda=True, byte_masks=True, unmasked=True)
    mixed = precision != "fp32"
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(FakeTensorMode())
        model = empty_model(model_config, vocabulary, form)
        shape = (config.train.batch_size, config.model.block_size)
        ids = torch.zeros(shape, dtype=torch.int64)
        counter = _Counter(compiled=compiled)
        for parameter in model.parameters():  # as in a step that has accumulated gradients
            if config.train.gradient_accumulation > 1:
                parameter.grad = torch.empty_like(parameter)
        model.body.register_forward_hook(counter.loss_begins)
        stack.enter_context(counter)
        dtype = DTYPES[precision] if mixed else torch.bfloat16
        with torch.autocast("cpu", dtype=dtype, enabled=mixed):
            loss = model(ids, ids)
        counter.in_loss = False
        loss.backward()
        counter.close()
    return counter.found


def count_update(config: Config, vocabulary: int, *, compiled: bool) -> Traffic:
    """Count the optimizer's part of a step on a GPU, from the second step on.

    Only for optimizers that decide on the device whether a step is made.
    """
    with FakeTensorMode():
        model = empty_model(config.model, vocabulary)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer = build_optimizer(config, model)
        if hasattr(optimizer, "on_device"):
            optimizer.on_device = True
        if isinstance(optimizer, Bf16StateAdam):
            optimizer.compiled = compiled
        precision = Precision("fp32", torch.device("cpu"))
        skip = torch.zeros((), dtype=torch.bool)
        precision.step(optimizer, skip)
        counter = _Counter(compiled=False)
        with counter:
            precision.step(optimizer, skip)
    return counter.found


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations while it is active."""

    def __init__(self, *, compiled: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Traffic()
        self.in_loss = False
        self._compiled = compiled
        self._read: dict[int, int] = {}  # storages that the current group reads
        self._written: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def loss_begins(self, *_: object) -> None:
        """Count what follows as the loss: a forward hook of the model's body."""
        self.close()
        self.in_loss = True

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count it."""
        result = func(*args, **(kwargs or {}))
        packet = func._schema.name  # type: ignore[attr-defined]
        name = packet.partition("::")[2]
        if packet.startswith("prim"):
            return result
        self.found.operations += 1
        if func.is_view or name in _MADE_ONLY:  # type: ignore[attr-defined]
            return result
        if name in _UNREAD:
            args = args[1:]
        inputs, outputs = list(_tensors((args, kwargs or {}))), list(_tensors(result))
        if self._compiled and not self.in_loss and _fuses(func, name):
            self._join(inputs, outputs)
            return result
        self.close()
        del outputs
        self.found.kernels.append(self._kernel(func, name, args, kwargs or {}, result))
        return result

    def _kernel(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> Kernel:
        if name == "slopes":
            logits = args[0]
            return Kernel(name, _FUSED_PASSES * logits.nbytes, loss=True)
        # The target of an out= operation is an argument, but not read.
        read = list(_tensors((args, {k: v for k, v in kwargs.items() if k != "out"})))
        written = list(_tensors(result))
        if result is None:  # it works in place on lists
            written = list(_mutated(func, args, kwargs))
            read = read[len(written) :] if name == "_foreach_copy_" else read
        if name in _SPARSE:
            largest = max(tensor.nbytes for tensor in read)
            read = [tensor for tensor in read if tensor.nbytes < largest]
            written = [tensor for tensor in written if tensor.nbytes < largest]
        moved = sum(tensor.nbytes for tensor in (*read, *written))
        return Kernel(name, moved, _flops(func, name, args, kwargs, result), self.in_loss)

    def _join(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for tensor in inputs:
            key = id(tensor.untyped_storage())
            if key not in self._written or self._written[key][0]() is None:
                self._read[key] = max(self._read.get(key, 0), tensor.nbytes)
        for tensor in outputs:
            storage = tensor.untyped_storage()
            self._written[id(storage)] = (weakref.ref(storage), tensor.nbytes)

    def close(self) -> None:
        """End the current group of fused operations."""
        if not self._written:
            return
        kept = sum(size for storage, size in self._written.values() if storage() is not None)
        self.found.kernels.append(
            Kernel("fused", sum(self._read.values()) + kept, loss=self.in_loss)
        )
        self._read, self._written = {}, {}


def _fuses(func: Any, name: str) -> bool:
    return (
        torch.Tag.pointwise in func.tags
        or name in _SIMPLE + _JOINING
        or name.startswith(_REDUCTIONS)
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)


def _mutated(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Yield what an operation writes into; gradients are marked, too, which none of ours scales."""
    names = (argument.name for argument in func._schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    for argument in func._schema.arguments:
        if argument.is_write and argument.name != "grads":
            yield from _tensors(given.get(argument.name))


def _flops(func: Any, name: str, args: Any, kwargs: Any, result: Any) -> float:
    if name.startswith(_ATTENTION):
        # Half of the (T, T) products under a causal mask: 2 of them forward, 5 backward.
        q = args[1] if "backward" in name else args[0]
        products = 5 if "backward" in name else 2
        batch, heads, length, width = q.shape
        return float(products * batch * heads * length * length * width)
    packet = func._overloadpacket
    if packet in flop_registry:
        more = {k: v for k, v in kwargs.items() if k != "out"}
        return float(flop_registry[packet](*args, **more, out_val=result))
    return 0.0
