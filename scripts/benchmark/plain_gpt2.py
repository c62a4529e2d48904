"""The bench's peer `plain`: GPT-2 as a first version in PyTorch.

It changes only when the comparison should change, not when gpt2/ gets faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.config.typed import ModelConfig
from gpt2.model.loss import IGNORED


class PlainBlock(nn.Module):
    """A layer of the plain GPT-2, over (B, T, C)."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1 = nn.LayerNorm(width, bias=bias)
        self.ln_2 = nn.LayerNorm(width, bias=bias)
        self.attn = nn.ModuleDict(
            {
                "c_attn": nn.Linear(width, 3 * width, bias=bias),
                "c_proj": nn.Linear(width, width, bias=bias),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(width, 4 * width, bias=bias),
                "c_proj": nn.Linear(4 * width, width, bias=bias),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after this layer."""
        batch, length, width = x.shape
        q, k, v = self.attn["c_attn"](self.ln_1(x)).split(width, dim=2)
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        y = self.attn["c_proj"](y.transpose(1, 2).contiguous().view(batch, length, width))
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))
        return x + F.dropout(y, self.dropout, self.training)


class Plain(nn.Module):
    """A plain GPT-2: all logits, cross-entropy over them, no memory savings."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(
            PlainBlock(config.n_embd, config.n_head, config.dropout, config.bias)
            for _ in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the targets (B, T)."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1), device=ids.device))
        x = F.dropout(x, self.dropout, self.training)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
