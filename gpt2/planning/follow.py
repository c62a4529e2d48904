"""Follow the storages of tensors: what operations allocate, and what is freed.

A storage is taken when an operation returns a tensor of it, and given back when no tensor refers to
it any more. Works alike on ordinary tensors and on fake ones, which have sizes and no numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.planning.ledger import KINDS, Ledger

_aten = torch.ops.aten
#: Names a tensor's kind of memory, an index of KINDS.
Kind = Callable[[Tensor], int]
_ACTIVATIONS = KINDS.index("activations")


class Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Books in a ledger the storages of the tensors that operations make while it is active.

    Tensors in `known` are not counted; others made before count once `add` is given them.
    kind: what new storages are held for. backward: whether the backward pass is under way.
    """

    def __init__(self, known: Iterable[Tensor] = (), kind: Kind = lambda _: _ACTIVATIONS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self.kind = kind
        self.backward = False
        self._kinds: dict[int, int] = {}
        self._found: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in known:
            storage = tensor.untyped_storage()
            self._found[id(storage)] = weakref.ref(storage)

    def add(self, tensor: Tensor, kind: int) -> None:
        """Count a tensor's storage as KINDS[kind]: a new one, or one that becomes that now."""
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
        """Run an operation and count what it made."""
        if self.backward and func is _aten.add.Tensor and not torch.is_grad_enabled():
            # The engine sums the gradients of a tensor in place, but not under a dispatch mode.
            # What is made again for a checkpoint runs with gradients enabled.
            return args[0].add_(args[1])
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._count(result)
        elif isinstance(result, tuple | list):
            for one in result:
                if isinstance(one, Tensor):
                    self._count(one)
        if func is _aten.log_softmax.int_out:
            self._copied(args[0], result)
        return result

    def _count(self, tensor: Tensor) -> None:
        known = self._found.get(id(tensor.untyped_storage()))
        if known is None or known() is None:
            self.add(tensor, self.kind(tensor))

    def _copied(self, logits: Tensor, result: Tensor) -> None:
        """Count what log_softmax holds inside itself: its input in the format of its result.

        On CUDA the kernel for fp16 reads it as it is.
        """
        if logits.dtype == torch.bfloat16 and result.dtype == torch.float32:
            kind, size = self.kind(result), result.numel() * result.element_size()
            self.ledger.take(kind, size)
            self.ledger.give(kind, size)
