"""Parameter groups: every parameter in exactly one, each with the role that optimizers act on."""

from __future__ import annotations

from typing import Any

from torch import nn

from gpt2.machine.shards import is_sharded

#: Roles: a matrix of a linear layer, an embedding (tokens, positions), a bias or norm.
ROLES = ("matrix", "embedding", "vector")


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return one group per role, in torch.optim's form, with keys `role` and `names` besides.

    Matrices and embeddings decay, vectors do not. The tied matrix appears once, as an embedding.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    members: dict[str, list[tuple[str, nn.Parameter]]] = {role: [] for role in ROLES}
    for name, parameter in model.named_parameters():
        if id(parameter) in embeddings:
            role = "embedding"
        else:
            role = "matrix" if parameter.ndim >= 2 else "vector"
        members[role].append((name, parameter))
    return [
        {
            "role": role,
            "names": [name for name, _ in found],
            "params": [parameter for _, parameter in found],
            "lr": learning_rate,
            "weight_decay": 0.0 if role == "vector" else weight_decay,
        }
        for role, found in members.items()
        if found
    ]


def fused_where_possible(groups: list[dict[str, Any]]) -> bool:
    """Whether torch has a fused kernel, known to refuse non-finite steps, for the device."""
    return all(
        parameter.device.type in ("cuda", "cpu")
        for group in groups
        for parameter in group["params"]
    )


def any_sharded(groups: list[dict[str, Any]]) -> bool:
    """Whether ranks hold parameters of the groups in shards."""
    return any(is_sharded(parameter) for group in groups for parameter in group["params"])
