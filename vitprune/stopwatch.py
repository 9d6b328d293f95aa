"""Seconds of several pieces of work that take turns: A B C A B C …, so that what disturbs a round disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vitprune.errors import MeasurementError

MIN_ROUNDS = 5
MIN_WARMUP = 1


def time_in_turn(
    work: Sequence[Callable[[], object]], device: torch.device, *, warmup: int, rounds: int
) -> NDArray[np.float64]:
    """Seconds ``(rounds, pieces)`` of every piece of work in every round; ``device`` is where it computes.

    Raises MeasurementError if there are too few rounds or no warm-up.
    """
    if rounds < MIN_ROUNDS or warmup < MIN_WARMUP:
        raise MeasurementError(
            f"{rounds} rounds after {warmup} warm-up passes would not give a figure to trust; "
            f"take at least {MIN_ROUNDS} rounds and {MIN_WARMUP} warm-up pass"
        )
    for piece in work:
        for _ in range(warmup):
            piece()
    seconds = np.empty((rounds, len(work)))
    for round_seconds in seconds:
        for place, piece in enumerate(work):
            round_seconds[place] = seconds_of(piece, device)
    return seconds


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run, the device having finished before and after."""
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
