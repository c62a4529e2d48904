"""Shards of real DTensors; whole runs under FSDP are in test_ranks.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gpt2.machine.shards import (
    deal,
    from_shard,
    full_tensor,
    gather_dealt,
    is_sharded,
    local_shard,
    ranks_of,
    shard_like,
    shard_rows,
)
from tests.support import warm


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A mesh of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()
    assert "RANK" not in os.environ


def test_plain_tensors_pass_through() -> None:
    tensor = torch.arange(6.0)
    assert not is_sharded(tensor)
    assert full_tensor(tensor) is tensor
    assert local_shard(tensor) is tensor
    assert shard_like(tensor, torch.zeros(6)) is tensor


def test_a_tensor_is_sharded_as_its_parameter_and_comes_back(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    parameter = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
    value = torch.arange(12.0).view(4, 3)
    sharded = shard_like(value, parameter)
    assert is_sharded(sharded)
    assert torch.equal(full_tensor(sharded), value)
    local_shard(sharded).zero_()  # shares the memory
    assert full_tensor(sharded).count_nonzero() == 0


def test_what_has_another_shape_is_not_sharded(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    count = torch.tensor(3.0)
    assert shard_like(count, distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])) is count


def test_plain_matrices_are_dealt_to_the_only_rank() -> None:
    matrices = torch.arange(24.0).view(2, 3, 4)
    assert ranks_of(matrices[0]) == 1
    dealt = deal(list(matrices), matrices[0], 1)
    assert torch.equal(dealt, matrices)
    assert all(map(torch.equal, gather_dealt(dealt, 2, matrices[0], 1), matrices))


def test_a_tensor_is_made_of_the_rows_of_a_rank(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    value = torch.arange(12.0).view(4, 3)
    parameter = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
    assert shard_rows(parameter) == range(4)
    made = from_shard(value, parameter)
    assert is_sharded(made)
    assert torch.equal(full_tensor(made), value)
    assert shard_like(made, parameter) is made


#: Three ranks hold matrices of seven and of two rows, so that the last one has fewer, or none.
DEALING = """
import os
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from gpt2.machine.shards import deal, from_shard, full_tensor, gather_dealt, local_shard
from gpt2.machine.shards import ranks_of, shard_rows

dist.init_process_group("gloo")
mesh, rank = init_device_mesh("cpu", (3,)), int(os.environ["RANK"])
for rows, count, first in ((7, 5, 2), (2, 3, 1), (7, 1, 0), (3, 2, 7)):
    whole = torch.arange(count * rows * 4.0).view(count, rows, 4)
    held = [distribute_tensor(one, mesh, [Shard(0)]) for one in whole]
    assert ranks_of(held[0]) == 3
    own = [local_shard(one) for one in held]
    mine = [whole[place] for place in range(count) if (first + place) % 3 == rank]
    dealt = deal(own, held[0], first)
    assert dealt.shape == (len(mine), rows, 4)
    assert all(map(torch.equal, dealt, mine))
    back = gather_dealt(dealt + 1, count, held[0], first)
    assert len(back) == count and all(map(torch.equal, back, [one + 1 for one in own]))
    span = shard_rows(held[0])
    part = whole[0][span.start : span.stop]
    assert torch.equal(part, own[0])
    assert torch.equal(full_tensor(from_shard(part, held[0])), whole[0])
print("right")
os._exit(0)
"""


@pytest.mark.slow
def test_matrices_are_dealt_among_ranks_and_gathered_again() -> None:
    done = warm.run_ranks(3, ["-c", DEALING], dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right") == 3
