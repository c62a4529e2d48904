"""The model's interface to training, pruning, planning and sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from gpt2.config.typed import ModelConfig
from gpt2.model.cache import Cache


class LanguageModel(nn.Module, ABC):
    """A causal language model over token ids, with Hugging Face's parameter names.

    config: its sizes. vocab_size: number of token ids.
    """

    config: ModelConfig
    vocab_size: int

    @abstractmethod
    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss in nats over the targets (B, T) that are not IGNORED."""

    @abstractmethod
    def logits(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits (B, V) of the token after `ids` (B, T).

        With a cache, pass only the tokens that are not in it yet; they are added.
        """

    @abstractmethod
    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the hidden states (B, T, C) of the tokens `ids` (B, T); never compiled."""

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """Return the part of the model that may be compiled: all but the head and the loss."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """Return the layers, first to last: the units of sharding."""

    @abstractmethod
    def prunable(self, scope: str) -> dict[str, nn.Parameter]:
        """Return the parameters in --prune-scope `scope`, by name: (out, in) matrices."""

    def parameter_count(self) -> int:
        """Return the number of parameters; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
