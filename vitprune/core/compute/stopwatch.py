"""Timing of several pieces of work side by side.

The pieces take turns, A B C A B C …, so that what disturbs a round disturbs all of them. A speed-up is the median over
the rounds of first / other *within* the round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vitprune.errors import MeasurementError

MIN_ROUNDS = 5
MIN_WARMUP = 1


@dataclass(frozen=True, kw_only=True)
class TimingProtocol:
    """How time is measured: on which device, for batches of which size, how often."""

    device: torch.device
    batch_size: int
    warmup: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of a piece of work over all rounds, and its speed-up over the first piece with its spread."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    speedup: float
    speedup_p10: float
    speedup_p90: float

    @classmethod
    def of(cls, seconds: NDArray[np.float64], index: int) -> Latency:
        """The latency of piece ``index`` from the ``seconds`` that ``time_in_turn`` returned."""
        median, p90, p99 = np.percentile(1000 * seconds[:, index], [50, 90, 99])
        p10_ratio, ratio, p90_ratio = np.percentile(seconds[:, 0] / seconds[:, index], [10, 50, 90])
        return cls(
            median_ms=float(median),
            p90_ms=float(p90),
            p99_ms=float(p99),
            speedup=float(ratio),
            speedup_p10=float(p10_ratio),
            speedup_p90=float(p90_ratio),
        )

    def as_metrics(self, batch_size: int) -> dict[str, float]:
        """The figures as plain numbers, with the throughput of a batch of ``batch_size`` images."""
        return {
            "median_ms": round(self.median_ms, 4),
            "p90_ms": round(self.p90_ms, 4),
            "p99_ms": round(self.p99_ms, 4),
            "images_per_second": round(1000 * batch_size / self.median_ms, 1),
            "speedup": round(self.speedup, 3),
            "speedup_p10": round(self.speedup_p10, 3),
            "speedup_p90": round(self.speedup_p90, 3),
        }


def time_in_turn(
    work: Sequence[Callable[[], object]],
    device: torch.device | Sequence[torch.device],
    *,
    warmup: int,
    rounds: int,
) -> NDArray[np.float64]:
    """Seconds ``(rounds, pieces)`` of every piece of work in every round.

    ``device`` is where the pieces compute: one device for all, or one for each. A piece is timed until its own device
    has finished. Raises MeasurementError if there are too few rounds or no warm-up.
    """
    if rounds < MIN_ROUNDS or warmup < MIN_WARMUP:
        raise MeasurementError(
            f"{rounds} rounds after {warmup} warm-up passes would not give a figure to trust; "
            f"take at least {MIN_ROUNDS} rounds and {MIN_WARMUP} warm-up pass"
        )
    devices = [device] * len(work) if isinstance(device, torch.device) else device
    for piece in work:
        for _ in range(warmup):
            piece()
    # The clock of the first round must not measure what the warm-up left in a queue.
    for used in dict.fromkeys(devices):
        synchronise(used)
    seconds = np.empty((rounds, len(work)))
    for round_seconds in seconds:
        for index, (piece, own) in enumerate(zip(work, devices, strict=True)):
            round_seconds[index] = seconds_of(piece, own)
    return seconds


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run of ``work``, from an idle ``device`` until the device has finished."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
