"""One run on several processes, called ranks: each computes on its share of the images, and results are combined.

Until ``join`` is called there is one rank, and nothing here costs anything. All ranks make the same calls in the same
order, because each call waits for the others.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from vitprune.errors import ConfigError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""Ranks wait so long for the main one, which searches for a speed alone; by default it would be half an hour."""


@dataclass(frozen=True)
class World:
    """The rank of this process among ``size`` ranks; ``local_rank`` is its rank on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files and talks to the user."""
        return self.rank == 0

    def share_of(self, count: int) -> slice:
        """This rank's share of ``count`` rows: contiguous, and equal to the others up to one row."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


_world = World()


def world() -> World:
    """The rank of this process, and their number."""
    return _world


def join(ranks: World, device: torch.device) -> None:
    """Become one of the ranks. All of them call this and meet at ``MASTER_ADDR`` and ``MASTER_PORT``.

    Raises ConfigError on a device whose tensors ranks cannot exchange, or if the ranks do not meet.
    """
    global _world
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"compute.processes above 1 needs CPUs or CUDA devices, but the device is {device}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE, rank=ranks.rank, world_size=ranks.size)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError(f"the {ranks.size} processes of this run did not meet at {address} ({error})") from error
    # If the group still has threads when the interpreter ends, they abort the process.
    atexit.register(leave)
    _world = ranks


def leave() -> None:
    """Leave the group of ranks, if this process is in one. A process that ends does so by itself."""
    global _world
    if dist.is_initialized():
        dist.destroy_process_group()
    _world = World()


def total(values: Tensor) -> Tensor:
    """The sum of every rank's ``values``, in place."""
    if _world.size > 1:
        dist.all_reduce(values)
    return values


def largest(value: int) -> int:
    """The largest of every rank's ``value``."""
    if _world.size == 1:
        return value
    values = torch.tensor(value)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def gathered(rows: Tensor, count: int) -> Tensor:
    """All ``count`` rows in order, of which each rank passes its share."""
    if _world.size == 1:
        return rows
    # all_gather needs equal shapes, so shares are padded and the padding is cut off again.
    longest = -(-count // _world.size)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    shares = [torch.empty_like(padded) for _ in range(_world.size)]
    dist.all_gather(shares, padded)
    slices = (World(rank, _world.size).share_of(count) for rank in range(_world.size))
    return torch.cat([share[: rows.stop - rows.start] for share, rows in zip(shares, slices, strict=True)])


def from_main(work: Callable[[], T]) -> T:
    """Call ``work`` on the main rank alone and return its result on every rank."""
    if _world.size == 1:
        return work()
    result = [work() if _world.is_main else None]
    dist.broadcast_object_list(result)
    return cast(T, result[0])


def wait_for_all() -> None:
    """Return once every rank has called this."""
    if _world.size > 1:
        dist.barrier()
