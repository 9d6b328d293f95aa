"""Inference time of models side by side.

Inputs lie on the device before the clock starts, so that the model is timed and not its loader. After a warm-up the
models take turns, one forward pass each. A speed-up is the median over the rounds of baseline time / model time
*within* the round: what disturbs a round disturbs both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitprune.model.predict import evaluation_mode
from vitprune.stopwatch import seconds_of, time_in_turn


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one forward pass over ``rounds``, and the speed-up over the first model with its spread."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    speedup: float
    speedup_p10: float
    speedup_p90: float

    def as_metrics(self, batch_size: int) -> dict[str, float]:
        """The figures as plain numbers, with the throughput that the median amounts to."""
        return {
            "median_ms": round(self.median_ms, 4),
            "p90_ms": round(self.p90_ms, 4),
            "p99_ms": round(self.p99_ms, 4),
            "images_per_second": round(1000 * batch_size / self.median_ms, 1),
            "speedup": round(self.speedup, 3),
            "speedup_p10": round(self.speedup_p10, 3),
            "speedup_p90": round(self.speedup_p90, 3),
        }


def time_models(models: Mapping[str, nn.Module], images: Tensor, *, warmup: int, rounds: int) -> dict[str, Latency]:
    """Latency of each model on one batch ``images``, which is on the models' device; the first is the baseline.

    Raises MeasurementError if there are too few rounds or no warm-up.
    """
    with torch.inference_mode(), ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluation_mode(model))
        work = [partial(model, images) for model in models.values()]
        seconds = time_in_turn(work, images.device, warmup=warmup, rounds=rounds)
    return {name: _latency(seconds, place) for place, name in enumerate(models)}


def time_loading(load: Callable[[], Tensor], *, warmup: int, rounds: int) -> float:
    """Median milliseconds of ``load``, which fetches one batch and returns it on its device."""
    device = load().device
    for _ in range(warmup):
        load()
    return 1000 * float(np.median([seconds_of(load, device) for _ in range(rounds)]))


def _latency(seconds: NDArray[np.float64], place: int) -> Latency:
    median, p90, p99 = np.percentile(1000 * seconds[:, place], [50, 90, 99])
    p10_ratio, ratio, p90_ratio = np.percentile(seconds[:, 0] / seconds[:, place], [10, 50, 90])
    return Latency(
        median_ms=float(median),
        p90_ms=float(p90),
        p99_ms=float(p99),
        speedup=float(ratio),
        speedup_p10=float(p10_ratio),
        speedup_p90=float(p90_ratio),
    )
