"""Follow the storages of tensors: what operations allocate, and what is freed.

A storage is taken when an operation returns a tensor of it, and freed when no tensor refers to it
any more. This works on ordinary tensors and on fake ones, which have sizes but no numbers.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.planning.ledger import KINDS, Ledger

_aten = torch.ops.aten
#: Returns a tensor's kind of memory, an index of KINDS.
Kind = Callable[[Tensor], int]
_ACTIVATIONS = KINDS.index("activations")


class Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records in a ledger the storages of the tensors that operations make while it is active.

    known: these tensors are not counted; other existing tensors count once `add` gets them.
    kind: what new storages are used for.
    backward: whether the backward pass is under way.
    cpu_kernels: whether CPU kernels are planned, which copy more.
    """

    def __init__(
        self,
        known: Iterable[Tensor] = (),
        kind: Kind = lambda _: _ACTIVATIONS,
        cpu_kernels: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cpu_kernels = cpu_kernels
        self.ledger = Ledger()
        self.kind = kind
        self.backward = False
        self._kinds: dict[int, int] = {}
        self._found: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in known:
            storage = tensor.untyped_storage()
            self._found[id(storage)] = weakref.ref(storage)

    def add(self, tensor: Tensor, kind: int) -> None:
        """Count a tensor's storage as KINDS[kind]: a new one, or one that changes its kind."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._kinds:
            self.ledger.give(self._kinds[key], size)
        else:

            def gone(_: object) -> None:
                self._found.pop(key, None)
                self.ledger.give(self._kinds.pop(key), size)

            self._found[key] = weakref.ref(storage, gone)
        self._kinds[key] = kind
        self.ledger.take(kind, size)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count its results."""
        if self.backward and func is _aten.add.Tensor and not torch.is_grad_enabled():
            # The engine sums the gradients of a tensor in place, but not under a dispatch mode.
            # Recomputation for a checkpoint runs with gradients enabled.
            return args[0].add_(args[1])
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._count(result)
        elif isinstance(result, tuple | list):
            for one in result:
                if isinstance(one, Tensor):
                    self._count(one)
        inside = self._inside(func, args, result)
        if inside:
            kind = self.kind(result)
            self.ledger.take(kind, inside)
            self.ledger.give(kind, inside)
        return result

    def _count(self, tensor: Tensor) -> None:
        known = self._found.get(id(tensor.untyped_storage()))
        if known is None or known() is None:
            self.add(tensor, self.kind(tensor))

    def _inside(self, func: Any, args: Sequence[Any], result: Any) -> int:
        """Return the bytes of casts that an operation makes inside itself."""
        if func is _aten.log_softmax.int_out:
            logits = args[0]
            reads_it = logits.dtype == torch.float16 and not self._cpu_kernels
            if logits.dtype != result.dtype and not reads_it:
                return int(result.numel() * result.element_size())
        elif self._cpu_kernels and torch.Tag.pointwise in func.tags:
            return _mixed(func, args, result)
        return 0


def _mixed(func: Any, args: Sequence[Any], result: Tensor) -> int:
    """Return the bytes that a CPU copies for an elementwise operation on several dtypes.

    It casts its inputs, and what it writes into, to the dtype in which it computes. A GPU does so
    in registers.
    """
    read = [a for a in args if isinstance(a, Tensor) and a.is_floating_point() and a.ndim > 0]
    if not read or not isinstance(result, Tensor):
        return 0
    common = functools.reduce(torch.promote_types, (tensor.dtype for tensor in read))
    written = [result] if func._schema.is_mutable and result.is_floating_point() else []
    copied = sum(tensor.numel() for tensor in [*read, *written] if tensor.dtype != common)
    return copied * common.itemsize
