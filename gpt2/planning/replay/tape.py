"""A shadow of autograd: it keeps sizes where torch keeps numbers, and books them in a ledger.

Memory is given back when nobody refers to it any more, as torch's is, and nodes run in the order of
torch's engine, the latest made first. So a model that is written once more in shadows, a line for
each of its own, takes and gives back the same memory at the same moments.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from gpt2.planning.replay.ledger import Ledger


class Storage:
    """So many bytes, held until the last reference to them goes."""

    __slots__ = ("_ledger", "kind", "size")

    def __init__(self, ledger: Ledger, kind: str, size: int) -> None:
        self._ledger, self.kind, self.size = ledger, kind, size
        ledger.take(kind, size)

    def become(self, kind: str) -> None:
        """Be held for something else from now on."""
        self._ledger.give(self.kind, self.size)
        self._ledger.take(kind, self.size)
        self.kind = kind

    def __del__(self) -> None:
        self._ledger.give(self.kind, self.size)


class Tensor:
    """A view of some memory: `size` bytes, and the node that made them, as its output `slot`."""

    __slots__ = ("node", "size", "slot", "storage")

    def __init__(self, storage: Storage, size: int) -> None:
        self.storage, self.size = storage, size
        self.node: Node | None = None
        self.slot = 0


#: Makes the gradients of a node's inputs, given those of its outputs by their slots.
Backward = Callable[[Mapping[int, Storage]], Sequence[Storage]]


class Node:
    """A step of the backward pass: it makes the gradients of its inputs, in their order."""

    def __init__(self, number: int, inputs: Sequence[Tensor], backward: Backward) -> None:
        self.number, self.backward = number, backward
        self.inputs = [(x.node, x.slot) for x in inputs]
        self.saved: list[Storage] = []
        self.frame: Frame | None = None


class Parameter(Node):
    """The node at which the gradient of a parameter of `count` numbers ends."""

    def __init__(self, count: int) -> None:
        super().__init__(1 << 62, [], lambda _: [])
        self.count = count
        self.grad: Storage | None = None


class Frame:
    """What a checkpointed function saved nothing of: its nodes, and how to run it again."""

    def __init__(self, again: Callable[[], object]) -> None:
        self.again = again
        self.nodes: list[Node] = []
        self.counts: list[int] = []  # of what each node would have saved
        self.done = False


class _EnoughError(Exception):
    """All that the backward pass needs of a frame is there again."""


class Tape:
    """Makes tensors and nodes, and runs them backward.

    `in_place`: the second gradient of a tensor is added to the first, as torch does it with
    ordinary tensors; with fake ones, and other subclasses, it makes a third.
    """

    def __init__(self, ledger: Ledger, in_place: bool) -> None:
        self.ledger, self.in_place = ledger, in_place
        self._numbers = itertools.count()
        self._frame: Frame | None = None  # what is checkpointed at the moment
        self._found: list[list[Storage]] | None = None  # saved again, while it is repeated

    def new(self, size: int, kind: str = "activations") -> Storage:
        """Take `size` bytes."""
        return Storage(self.ledger, kind, size)

    def record(
        self,
        sizes: Sequence[int],
        inputs: Sequence[Tensor],
        saved: Sequence[Tensor | Storage],
        backward: Backward,
        storage: Storage | None = None,
    ) -> list[Tensor]:
        """Return outputs of `sizes`, in new memory or as views of `storage`.

        `saved` is held until the backward pass has come by.
        """
        node = None
        if any(x.node for x in inputs):
            node = Node(next(self._numbers), inputs, backward)
            self._save(node, [x.storage if isinstance(x, Tensor) else x for x in saved])
        outs = [Tensor(storage or self.new(size), size) for size in sizes]
        for slot, out in enumerate(outs):
            out.node, out.slot = node, slot
        return outs

    def save_output(self, out: Tensor) -> None:
        """Let the node that just made `out` hold it, too."""
        if out.node is not None:
            self._save(out.node, [out.storage], more=True)

    def checkpoint(self, function: Callable[[], Tensor], again: Callable[[], object]) -> Tensor:
        """Return function() without saving anything; the backward pass will call `again`."""
        self._frame = Frame(again)
        try:
            return function()
        finally:
            self._frame = None

    def _save(self, node: Node, saved: list[Storage], more: bool = False) -> None:
        if self._found is not None:
            assert self._frame is not None
            if more:
                self._found[-1] += saved
            else:
                self._found.append(saved)
            counts = self._frame.counts
            if len(self._found) == len(counts) and len(self._found[-1]) == counts[-1]:
                raise _EnoughError
        elif self._frame is None:
            node.saved += saved
        elif more:
            self._frame.counts[-1] += len(saved)
        else:
            node.frame = self._frame
            self._frame.nodes.append(node)
            self._frame.counts.append(len(saved))

    def _repeat(self, frame: Frame) -> None:
        """Run a checkpointed function again, as far as it saves something."""
        while not frame.counts[-1]:  # nodes at its end that save nothing
            frame.counts.pop()
            frame.nodes.pop()
        self._frame, self._found = frame, []
        try:
            frame.again()
        except _EnoughError:
            for node, saved in zip(frame.nodes, self._found, strict=True):
                node.saved = saved
        finally:
            self._frame = self._found = None
        frame.done = True
        frame.again = _nothing

    def backward(self, root: Node, grad: Storage) -> None:
        """Run the backward pass from `root`, whose gradient is `grad`."""
        waiting = _uses(root)
        held: dict[Node, dict[int, Storage]] = {root: {0: grad}}
        del grad
        order = itertools.count()
        ready = [(-root.number, next(order), root)]
        while ready:
            node = heapq.heappop(ready)[2]
            if isinstance(node, Parameter):
                self._accumulate(node, held.pop(node)[0])
                continue
            if node.frame is not None and not node.frame.done:
                self._repeat(node.frame)
            made = list(node.backward(held[node]))
            held.pop(node, None)
            node.saved = []
            for place, (into, slot) in enumerate(node.inputs):
                if into is None:
                    continue
                self._add(held.setdefault(into, {}), slot, made[place])
                waiting[into] -= 1
                if not waiting[into]:
                    heapq.heappush(ready, (-into.number, next(order), into))
            del made

    def _add(self, held: dict[int, Storage], slot: int, gradient: Storage) -> None:
        if slot not in held:
            held[slot] = gradient
        elif not self.in_place:
            held[slot] = self.new(gradient.size, gradient.kind)

    def _accumulate(self, node: Parameter, gradient: Storage) -> None:
        if node.grad is None:
            gradient.become("gradients")
            node.grad = gradient


def _nothing() -> None:
    """Hold no reference to what has been repeated."""


def _uses(root: Node) -> Counter[Node]:
    """Return how many edges lead to each node on the way from `root`."""
    uses: Counter[Node] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().inputs:
            if node is not None:
                uses[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    return uses
