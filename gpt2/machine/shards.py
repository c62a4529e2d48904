"""Tensors sharded over ranks (DTensors, under FSDP): a rank's own shard, and the full tensor.

Plain tensors pass through each function unchanged, so callers need not distinguish. A DTensor is
recognised by its methods: importing its class takes a second, which only sharded runs should wait
for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this tensor is sharded over ranks."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, gathered from all ranks; each of them must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor: plain, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a full tensor like `parameter`; return it unchanged where `parameter` is plain.

    A tensor of another shape than the parameter, such as a step count, is never sharded.
    """
    if not is_sharded(parameter) or is_sharded(tensor) or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    placed = tensor.to(parameter.device)
    return distribute_tensor(
        placed, parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def shard_rows(parameter: Tensor) -> range:
    """Return the rows (first dimension) of a sharded tensor that this rank holds."""
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    found = _rows(parameter.size(0), mesh.size(), mesh.get_local_rank())
    assert len(found) == parameter.to_local().size(0)
    return found


def from_shard(rows: Tensor, parameter: Tensor) -> Tensor:
    """Return a sharded tensor shaped like `parameter`, of which this rank holds `rows`."""
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        rows.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def ranks_of(parameter: Tensor) -> int:
    """Return over how many ranks a parameter is sharded; 1 where it is plain."""
    return parameter.device_mesh.size() if is_sharded(parameter) else 1  # type: ignore[attr-defined]


def deal(shards: Sequence[Tensor], like: Tensor, first: int) -> Tensor:
    """Return the full matrices (k, m, n) that this rank gets when they are dealt to all.

    `shards` are this rank's rows of matrices of the shape (m, n) of the sharded parameter `like`.
    The i-th goes to rank first + i, modulo the number of ranks. All ranks must call this. Each
    number is sent once: a rank gets from every other the rows of its own matrices.
    """
    if not is_sharded(like):
        return torch.stack(list(shards))
    group, mine, dealt, rows = _dealing(len(shards), like, first)
    width = like.size(1)
    order = [shards[place] for places in dealt for place in places]
    sent = torch.cat([shard.reshape(-1) for shard in order])
    got = sent.new_empty(len(dealt[mine]) * like.size(0) * width)
    to = [len(places) * rows[mine] * width for places in dealt]
    back = [len(dealt[mine]) * count * width for count in rows]
    torch.distributed.all_to_all_single(got, sent, back, to, group=group)
    parts = zip(got.split(back), rows, strict=True)
    return torch.cat([p.view(len(dealt[mine]), count, width) for p, count in parts], dim=1)


def gather_dealt(full: Tensor, count: int, like: Tensor, first: int) -> list[Tensor]:
    """Return this rank's rows of `count` dealt matrices; it holds `full` of them."""
    if not is_sharded(like):
        return list(full.unbind())
    group, mine, dealt, rows = _dealing(count, like, first)
    width = like.size(1)
    sent = torch.cat([part.reshape(-1) for part in full.split(rows, dim=1)])
    back = [len(dealt[mine]) * held * width for held in rows]
    to = [len(places) * rows[mine] * width for places in dealt]
    got = sent.new_empty(sum(to))
    torch.distributed.all_to_all_single(got, sent, to, back, group=group)
    found = got.view(count, rows[mine], width)
    order = [place for places in dealt for place in places]
    return [found[order.index(place)] for place in range(count)]


def _dealing(
    count: int, like: Tensor, first: int
) -> tuple[object, int, list[list[int]], list[int]]:
    """Return the group, this rank's index, the matrices dealt to each rank, and its rows.

    The rows are how many each rank holds of every matrix.
    """
    mesh = like.device_mesh  # type: ignore[attr-defined]
    ranks = mesh.size()
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for place in range(count):
        dealt[(first + place) % ranks].append(place)
    rows = [len(_rows(like.size(0), ranks, rank)) for rank in range(ranks)]
    return mesh.get_group(), mesh.get_local_rank(), dealt, rows


def _rows(rows: int, ranks: int, rank: int) -> range:
    """Return the rows of a tensor that a rank holds: the last ranks may hold fewer, or none."""
    most = -(-rows // ranks)
    start = min(rows, rank * most)
    return range(start, min(rows, start + most))
