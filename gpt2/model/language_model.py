"""The interface of a model to the trainer, pruning, planning and sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from gpt2.config.typed import ModelConfig
from gpt2.model.cache import Cache


class LanguageModel(nn.Module, ABC):
    """A causal language model over token ids. Its parameters have Hugging Face's names.

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

        With a cache, `ids` are only the tokens that it has not seen; it has seen them afterwards.
        """

    @abstractmethod
    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the hidden states (B, T, C) of the tokens `ids` (B, T); never compiled."""

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The part of the model that may be compiled: all but the head and the loss."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The layers, first to last: units of sharding."""

    @abstractmethod
    def prunable(self, scope: str) -> dict[str, nn.Parameter]:
        """Return the parameters that --prune-scope `scope` admits, by name: (out, in) matrices."""

    def parameter_count(self) -> int:
        """Number of parameters; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())
