"""The processes (ranks) that train one model together, started by torchrun; usually one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gpt2.config.errors import UserError

#: A process gives up after waiting this long for another.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class DistributedContext:
    """This process among those of the run, in torchrun's terms.

    rank: of `world_size` processes. local: of the `here` processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local: int = 0
    here: int = 1
    #: Group for numbers that the host needs; gradients use the default group.
    control: Any = None
    #: Group for other threads while that one is in use; only in sharded runs.
    aside: Any = None
    #: Whether the model is sharded, so that all ranks must compute together.
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0

    def parallelize(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return a module that computes `model` on this rank's share and averages gradients.

        Sharded, `model` itself is changed: its parameters are divided among the ranks in place.
        """
        if self.world_size == 1:
            return model
        if self.sharded:
            # Takes a second to import; only a sharded run should wait for it.
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            mesh = init_device_mesh(device.type, (self.world_size,))
            for block in model.blocks:  # type: ignore[union-attr]
                fully_shard(block, mesh=mesh)
            # Parameters must be sharded again also after a forward pass without a backward pass (an
            # evaluation): checkpoints are made of the shards.
            fully_shard(model, mesh=mesh, reshard_after_forward=True)
            register_fsdp_forward_method(model, "logits")
            return model
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def accumulate(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one micro-step: only the last one averages gradients over ranks."""
        if self.sharded:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return nullcontext()

    def all_reduce_stop(self, stop: bool, elapsed: float) -> tuple[bool, float]:
        """Return whether any rank wants to stop, and the first rank's time."""
        if self.world_size == 1:
            return stop, elapsed
        wanted = torch.tensor([float(stop), elapsed if self.first else -1.0], dtype=torch.float64)
        dist.all_reduce(wanted, op=dist.ReduceOp.MAX, group=self.control)
        return bool(wanted[0] > 0.0), float(wanted[1])

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum over ranks of each value."""
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.control)
        return [float(value) for value in sums]

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over ranks, on its device, without reading a value back."""
        if self.world_size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world_size

    def gather(self, value: Any, aside: bool = False) -> list[Any]:
        """Return every rank's `value`, which is plain data, by rank.

        `aside`: use the group for other threads, which only sharded runs have.
        """
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=self.aside if aside else self.control)
        return found

    def first_problem(self, problem: str | None) -> str | None:
        """Return the problem of the first rank that has one; None if no rank has."""
        return next((found for found in self.gather(problem) if found), None)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier(group=self.control)

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            dist.destroy_process_group()


def alone() -> bool:
    """Return whether this process is the only rank."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def _launched() -> tuple[int, int, int, int]:
    """Return rank and number of ranks, of the run and of this machine.

    Raises UserError without a launcher: batch systems and images set WORLD_SIZE alone, for their
    own scripts.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, size, local, here = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError):
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is in the environment without numbers for "
            f"{', '.join(names)}: start ranks with make NPROC=2 or torchrun, which set all, or one "
            "process with WORLD_SIZE=1 before the command"
        ) from None
    return rank, size, local, here


def init_distributed(device: str, shard: str, index: int | None = None) -> DistributedContext:
    """Join the processes that torchrun started; without torchrun, be the only rank.

    `device` is --device, `index` the number of its GPU and `shard` --shard. Each process of a
    machine takes the GPU of its local rank. Raises UserError.
    """
    if alone():
        if shard != "none":
            raise UserError(
                f"--shard {shard} divides the model among ranks, and there is one: start several "
                "with make NPROC=2 or torchrun --standalone --nproc-per-node 2, or leave it at none"
            )
        return DistributedContext()
    rank, world_size, local, processes = _launched()
    if index:
        raise UserError(
            f"--device cuda:{index} names one GPU, and each of {world_size} ranks takes its own: "
            f"use --device cuda; CUDA_VISIBLE_DEVICES={index},... chooses which there are"
        )
    # Without a GPU, --device cuda is refused in the next step, as with one rank.
    cuda = device in ("cuda", "auto") and torch.cuda.is_available()
    if cuda:
        cards = torch.cuda.device_count()
        if processes > cards:
            raise UserError(
                f"torchrun started {processes} processes on this machine, which has {cards} GPUs: "
                f"--nproc-per-node {cards}, or --device cpu"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    control = dist.new_group(backend="gloo", timeout=TIMEOUT) if cuda else dist.group.WORLD
    aside = dist.new_group(backend="gloo", timeout=TIMEOUT) if shard == "fsdp" else None
    # Wait for all: a rank that fails before others arrive would take them along, and torchrun would
    # kill them before they report the error.
    dist.barrier(group=control)
    return DistributedContext(
        rank, world_size, local, processes, control, aside, sharded=shard == "fsdp"
    )
