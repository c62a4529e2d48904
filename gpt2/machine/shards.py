"""Tensors that ranks hold in shards (DTensors, under FSDP): a rank's own part, and the full one.

Plain tensors pass through each function as they are, so callers need not ask which kind they have.
A DTensor is told by its methods: to import its class takes a second, which only runs that shard
should wait for.
"""

from __future__ import annotations

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether ranks hold this tensor in shards."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, gathered from all ranks; each of them must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor: plain, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a full tensor in shards as `parameter` is; as it is where `parameter` is plain.

    What has another shape than the parameter, such as a count of steps, is never sharded.
    """
    if not is_sharded(parameter) or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    placed = tensor.to(parameter.device)
    return distribute_tensor(
        placed, parameter.device_mesh, parameter.placements, src_data_rank=None
    )
