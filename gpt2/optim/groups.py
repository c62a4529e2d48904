"""Parameter groups: every parameter in exactly one group, with the role that optimizers look at."""

from __future__ import annotations

from typing import Any

from torch import nn

from gpt2.machine.shards import is_sharded

#: Roles: the matrix of a linear layer, an embedding (tokens, positions), a bias or norm.
ROLES = ("matrix", "embedding", "vector")


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return one group per role, in torch.optim's form with the extra keys `role` and `names`.

    Matrices and embeddings have weight decay, vectors have none. The tied matrix appears once, as
    an embedding.
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
    """Return whether torch has a fused kernel, known to skip non-finite steps, for the device."""
    return all(
        parameter.device.type in ("cuda", "cpu")
        for group in groups
        for parameter in group["params"]
    )


def on_gpu(groups: list[dict[str, Any]]) -> bool:
    """Return whether the parameters are on a CUDA device, where reading a value is a wait."""
    return all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])


def any_sharded(groups: list[dict[str, Any]]) -> bool:
    """Return whether parameters of the groups are sharded over ranks."""
    return any(is_sharded(parameter) for group in groups for parameter in group["params"])
