"""Which parameters can be pruned at all."""

from __future__ import annotations

from torch import nn

#: Parts of names (Hugging Face's) of the parameters in each scope. The matrix of token embeddings
#: is also the head: it is pruned once, as one matrix, and zero in both uses. Positions, norms and
#: biases are in no scope.
_PARTS = {
    "blocks": (".attn.c_", ".mlp.c_"),
    "attention": (".attn.c_",),
    "mlp": (".mlp.c_",),
    "all": (".attn.c_", ".mlp.c_", ".wte."),
}


def prunable(model: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """Return the prunable parameters of a GPT-2 by name, in its order: (out, in) matrices."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and any(part in name for part in _PARTS[scope])
    }
