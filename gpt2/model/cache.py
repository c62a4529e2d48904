"""Key-value cache: a new token attends without computing the earlier ones again."""

from __future__ import annotations

from torch import Tensor


class LayerCache:
    """Keys and values (B, H, T, D) of one layer, in memory allocated once for `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._held: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of new tokens (B, H, N, D); return views of all tokens so far."""
        end = self.length + k.size(2)
        assert end <= self.capacity
        if self._held is None:
            batch, heads, _, width = k.shape
            held = k.new_empty(2, batch, heads, self.capacity, width)
            self._held = held[0], held[1]
        for held, new in zip(self._held, (k, v), strict=True):
            held[:, :, self.length : end] = new
        self.length = end
        return self._held[0][:, :, :end], self._held[1][:, :, :end]


class Cache:
    """One LayerCache for each layer of a model.

    The first tokens may come all at once, later ones only one at a time. flash_attention's causal
    mask fits queries that start at the first key, or one last query.
    """

    def __init__(self, n_layer: int, capacity: int) -> None:
        self.capacity = capacity
        self.layers = [LayerCache(capacity) for _ in range(n_layer)]

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache."""
        return self.layers[0].length
