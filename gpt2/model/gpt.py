"""GPT-2: pre-norm transformer with learned positions and a head tied to the embedding.

Parameter names are those of Hugging Face's GPT2LMHeadModel. Weights of linear layers are (out, in),
torch's orientation; Hugging Face stores them (in, out), see gpt2/weights/hugging_face.py.

Shapes: B batch, T tokens, C width, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2.config.typed import ModelConfig
from gpt2.model.attention import explicit_attention, flash_attention
from gpt2.model.cache import Cache, LayerCache
from gpt2.model.form import OWN, Form
from gpt2.model.language_model import LanguageModel
from gpt2.model.loss import chunk_mib, chunked_loss, full_loss, half_logits, rows_within

#: Parts of parameter names in each --prune-scope. The token embedding is also the head: it is
#: pruned once, and zero in both uses. Positions, norms and biases are in no scope.
_PRUNABLE = {
    "blocks": (".attn.c_", ".mlp.c_"),
    "attention": (".attn.c_",),
    "mlp": (".mlp.c_",),
    "all": (".attn.c_", ".mlp.c_", ".wte."),
}


class Attention(nn.Module):
    """Causal self-attention over B texts of T tokens, given as (B*T, C)."""

    def __init__(self, config: ModelConfig, form: Form = OWN) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head = config.n_head
        self.dropout, self.form = config.dropout, form
        self.attend = flash_attention if config.flash_attention else explicit_attention
        self.recompute = config.activation_checkpointing == "selective"

    def forward(
        self, x: Tensor, norm: nn.Module, texts: int, past: LayerCache | None = None
    ) -> Tensor:
        """Return the output (B*T, C): each token attends to the past, earlier tokens and itself.

        `norm` is applied to `x` first; `texts` is B.
        """
        width = x.size(1)
        mixed = linear_of(norm, x, self.c_attn, self.recompute)
        parts = mixed.view(texts, -1, 3, self.n_head, width // self.n_head).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)  # (B, H, T, D)
        if past is not None:
            k, v = past.extend(k, v)
        mixed = self.attend(q, k, v, self.dropout if self.training else 0.0, self.form)
        mixed = mixed.transpose(1, 2).reshape(-1, width)
        return self.form.dropout(self.c_proj(mixed), self.dropout, self.training)


class Mlp(nn.Module):
    """The feed-forward half of a block, with a hidden layer of 4 C, over (B*T, C)."""

    def __init__(self, config: ModelConfig, form: Form = OWN) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout, self.form = config.dropout, form
        self.recompute = config.activation_checkpointing == "selective"

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Return the output (B*T, C) for each token by itself, after `norm`."""
        x = linear_of(norm, x, self.c_fc, self.recompute)
        x = linear_of(gelu, x, self.c_proj, self.recompute)
        return self.form.dropout(x, self.dropout, self.training)


def _products_in_bf16(device: str) -> bool:
    """Return whether autocast computes in bf16; evaluate.py can evaluate such a run in fp16."""
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16


class Norm(nn.LayerNorm):
    """Layer normalisation in the dtype of the residual stream; its sums are fp32.

    fp32 is left to autocast, which returns fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x (N, C)."""
        if x.dtype == torch.float32:
            return super().forward(x)
        # Autocast would widen x, and keep the wide copy for the backward pass.
        with torch.autocast(x.device.type, enabled=False):
            weight: Tensor = self.weight
            bias: Tensor | None = self.bias
            if x.device.type != "cpu":  # a CPU with 16-bit weights would also sum in 16 bits
                weight = weight.to(x.dtype)
                bias = None if bias is None else bias.to(x.dtype)
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm and added to its input."""

    def __init__(self, config: ModelConfig, form: Form = OWN) -> None:
        super().__init__()
        self.ln_1 = Norm(config.n_embd, bias=config.bias)
        self.attn = Attention(config, form)
        self.ln_2 = Norm(config.n_embd, bias=config.bias)
        self.mlp = Mlp(config, form)
        self.recompute = config.activation_checkpointing == "full"
        self.random = config.dropout > 0.0

    def forward(self, x: Tensor, texts: int, past: LayerCache | None = None) -> Tensor:
        """Return the residual stream (B*T, C) of B `texts` after this layer."""
        if self.recompute and torch.is_grad_enabled():
            return recomputed(lambda x: self._after(x, texts), x, random=self.random)
        return self._after(x, texts, past)

    def _after(self, x: Tensor, texts: int, past: LayerCache | None = None) -> Tensor:
        x = x + self.attn(x, self.ln_1, texts, past)
        after: Tensor = x + self.mlp(x, self.ln_2)
        return after


def gelu(x: Tensor) -> Tensor:
    """Return the GELU of x by GPT-2's tanh approximation."""
    return F.gelu(x, approximate="tanh")


def linear_of(
    inner: Callable[[Tensor], Tensor], x: Tensor, linear: nn.Linear, recompute: bool
) -> Tensor:
    """Return linear(inner(x)); with `recompute`, recompute inner(x) in the backward pass.

    The recomputation stops before `linear`, whose result is not needed.
    """
    if recompute and torch.is_grad_enabled():
        return recomputed(lambda x: linear(inner(x)), x, random=False)
    after: Tensor = linear(inner(x))
    return after


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, *, random: bool) -> Tensor:
    """Return function(x), keeping only x and recomputing the rest in the backward pass.

    Chen et al. 2016, section 3. With `random`, function draws random numbers: the recomputation
    draws the same ones.
    """
    after: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=random)
    return after


class Transformer(nn.Module):
    """Token ids (B, T) -> hidden states (B*T, C)."""

    def __init__(self, config: ModelConfig, vocab_size: int, form: Form = OWN) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, form) for _ in range(config.n_layer))
        self.ln_f = Norm(config.n_embd, bias=config.bias)
        self.dropout, self.form = config.dropout, form
        self.half_residual = config.residual_precision == "bf16"

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the hidden states (B*T, C) of the tokens `ids` (B, T), which follow the cache.

        The tokens of all texts share one dimension, so that linear layers need not reshape.
        """
        start = cache.length if cache else 0
        positions = torch.arange(start, start + ids.size(1), device=ids.device)
        x = (self.wte(ids) + self.wpe(positions)).flatten(0, 1)
        if self.half_residual and _products_in_bf16(x.device.type):
            # All later sums have this dtype, and so have the tensors that norms keep.
            x = x.to(torch.bfloat16)
        x = self.form.dropout(x, self.dropout, self.training)
        for layer, block in enumerate(self.h):
            x = block(x, ids.size(0), cache.layers[layer] if cache else None)
        hidden: Tensor = self.ln_f(x)
        return hidden


class GPT(LanguageModel):
    """GPT-2 (Radford et al. 2019). The head is the embedding matrix: one parameter, named once."""

    def __init__(self, config: ModelConfig, vocab_size: int, form: Form = OWN) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.form = form
        self.transformer = Transformer(config, vocab_size, form)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss in nats over the targets (B, T) that are not IGNORED."""
        hidden = self.transformer(ids)  # (B*T, C)
        weight = self.transformer.wte.weight
        if self.config.loss == "full":
            return full_loss(hidden, weight, targets.flatten())
        assert self.config.loss_chunk_mib is not None
        fused = self.config.loss == "fused"
        mib = chunk_mib(self.config.loss_chunk_mib, hidden.device.type, fused)
        half = half_logits(hidden, self.form, fused)
        rows = rows_within(mib, self.vocab_size, half)
        return chunked_loss(hidden, weight, targets.flatten(), rows, self.form, fused=fused)

    def logits(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits (B, V) of the token after `ids` (B, T).

        With a cache, pass only the tokens that are not in it yet; they are added.
        """
        return F.linear(self.hidden(ids, cache)[:, -1], self.transformer.wte.weight)

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the hidden states (B, T, C) of the tokens `ids` (B, T); never compiled."""
        # Calls the uncompiled forward: text grows, and every length would be compiled anew.
        tokens: Tensor = self.transformer.forward(ids, cache)
        return tokens.view(*ids.shape, -1)

    @property
    def body(self) -> nn.Module:
        """Return the transformer."""
        return self.transformer

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Return the transformer's blocks."""
        return list(self.transformer.h)

    def prunable(self, scope: str) -> dict[str, nn.Parameter]:
        """Return the parameters in --prune-scope `scope`, by name: (out, in) matrices."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.endswith(".weight") and any(part in name for part in _PRUNABLE[scope])
        }
