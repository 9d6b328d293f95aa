"""One run on several processes: each works on its share of the images, and what they find is put together.

The processes are called ranks, as in torch.distributed. Until ``join`` is called there is one, and nothing here costs
anything. All ranks make the same calls in the same order: each call waits for the others.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from vitprune.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which rank this process is, of how many; ``local_rank`` counts those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files and talks to the user."""
        return self.rank == 0

    def share_of(self, count: int) -> slice:
        """The part of ``count`` rows that is this rank's: contiguous, and as large as the others' but for one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


_world = World()


def world() -> World:
    """This process's place among the ranks."""
    return _world


def join(found: World, device: torch.device) -> None:
    """Become one of the ranks, which all call this; ``MASTER_ADDR`` and ``MASTER_PORT`` say where they meet.

    Raises ConfigError on a device whose tensors ranks cannot exchange, or if the others do not come.
    """
    global _world
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"compute.processes above 1 needs CPUs or CUDA devices, but the device is {device}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=found.rank, world_size=found.size)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError(f"the {found.size} processes of this run did not meet at {place} ({error})") from error
    # Threads of a group that the interpreter finds at its end abort the process, whose work is done.
    atexit.register(leave)
    _world = found


def leave() -> None:
    """Stop being one of several ranks, if this process is one; one that ends leaves by itself."""
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
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gathered(rows: Tensor, count: int) -> Tensor:
    """All ``count`` rows of which each rank has its share, in order."""
    if _world.size == 1:
        return rows
    # Equal parts, as all_gather wants them: the surplus is cut off again.
    most = -(-count // _world.size)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(_world.size)]
    dist.all_gather(parts, padded)
    shares = (World(rank, _world.size).share_of(count) for rank in range(_world.size))
    return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])


def from_main(work: Callable[[], T]) -> T:
    """What ``work`` returns on the main rank, which alone does it, for every rank."""
    if _world.size == 1:
        return work()
    result = [work() if _world.is_main else None]
    dist.broadcast_object_list(result)
    return cast(T, result[0])


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if _world.size > 1:
        dist.barrier()
