"""Random numbers that depend on the seed and the position in the training alone.

A step thereby knows its random numbers without replaying the steps before it, which resuming needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch.nn.functional import dropout
from torch.overrides import TorchFunctionMode

from vitprune.core.compute.distributed import world


class Purpose(IntEnum):
    """What a random number is for; each purpose has its own stream. Changing a value changes every result."""

    ORDER = 0
    IMAGES = 1
    MIXING = 2
    DROPOUT = 3


def seed_for(seed: int, purpose: Purpose, *position: int) -> int:
    """A 63-bit seed for one purpose at one position, such as an epoch and a batch."""
    (value,) = np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)
    return int(value) >> 1


def dropout_seed(seed: int, epoch: int, batch: int, *, is_compiled: bool) -> int:
    """The seed of dropout and stochastic depth in one batch.

    It is the same on all ranks, which then draw for the whole batch (``WholeBatchRandomness``). A compiled model draws
    for the rows of its rank alone, so each rank needs its own seed, and the weights depend on the number of ranks.
    """
    rank = (world().rank,) if is_compiled and world().size > 1 else ()
    return seed_for(seed, Purpose.DROPOUT, epoch, batch, *rank)


@contextmanager
def seeded_global_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators, on the CPU and on ``device``, and restore their states afterwards.

    Dropout and stochastic depth can draw from no other generator.
    """
    if device.type == "mps":  # torch.random.fork_rng cannot save the state of this one
        state = torch.mps.get_rng_state()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                torch.mps.manual_seed(seed)
                yield
        finally:
            torch.mps.set_rng_state(state)
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would also seed devices whose state is not restored.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class WholeBatchRandomness(TorchFunctionMode):
    """Let dropout and stochastic depth draw for the whole batch and use this rank's rows, as a single rank would.

    ``rows`` is this rank's share of the ``count`` images.
    """

    def __init__(self, rows: slice, count: int) -> None:
        super().__init__()
        self._rows, self._count = rows, count

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.rand:
            return torch.rand(self._count, *args[1:], **kwargs)[self._rows]
        if function is dropout:
            x, probability, is_training = args[0], *_dropout_arguments(args, kwargs)
            if not (is_training and probability):
                return x
            ones = torch.ones(self._count, *x.shape[1:], dtype=x.dtype, device=x.device)
            return x * torch.dropout(ones, probability, train=True)[self._rows]
        return function(*args, **kwargs)


def _dropout_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, bool]:
    given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    return float(given.get("p", 0.5)), bool(given.get("training", True))
