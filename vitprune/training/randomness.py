"""Random numbers that depend on a seed and a place in the training, and on nothing that happened before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class Purpose(IntEnum):
    """What a random number is for; each purpose has a stream of its own. The numbers are part of every result."""

    ORDER = 0
    IMAGES = 1
    MIXING = 2
    DROPOUT = 3


def seed_for(seed: int, purpose: Purpose, *place: int) -> int:
    """A 63-bit seed for one purpose at one place, such as an epoch and a step.

    A step thereby knows its random numbers without replaying those before it, which is what resuming needs.
    """
    (value,) = np.random.SeedSequence([seed, purpose, *place]).generate_state(1, np.uint64)
    return int(value) >> 1


@contextmanager
def seeded_global_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators, of the CPU and of ``device``, and put them back afterwards.

    Dropout and stochastic depth draw from the global generators and take no other.
    """
    if device.type == "mps":  # torch.random.fork_rng cannot save this one
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
        # Not torch.manual_seed: it would also seed the devices that are not put back.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def deterministic_kernels(device: torch.device) -> Iterator[None]:
    """Keep to kernels whose result is the same at every run; on CUDA, some fast ones add in any order.

    Plain attention instead of the fused ones: their backward passes are not repeatable, and the few dozen tokens of
    these models leave little to gain. Asking PyTorch for deterministic algorithms everywhere would take an environment
    variable that has to be set before CUDA starts.
    """
    if device.type != "cuda":
        yield
        return
    cudnn_was_deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.deterministic = cudnn_was_deterministic
