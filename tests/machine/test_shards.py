"""Shards of real DTensors; whole runs under FSDP are in test_ranks.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gpt2.machine.shards import full_tensor, is_sharded, local_shard, shard_like


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
