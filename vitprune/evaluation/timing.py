"""Inference time of models side by side.

Inputs lie on the device before the clock starts, so that the model is timed and not its loader. After a warm-up the
models take turns, one forward pass each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitprune.core.compute.device import describe_machine
from vitprune.core.compute.stopwatch import Latency, seconds_of, time_in_turn
from vitprune.core.model.checkpoint import SavedModel
from vitprune.core.model.predict import evaluation_mode
from vitprune.core.packed import PackedData
from vitprune.evaluation.options import EvaluateOptions


def time_models(
    models: Mapping[str, nn.Module], images: Mapping[str, Tensor], *, warmup: int, rounds: int
) -> dict[str, Latency]:
    """Latency of each model on its own batch of ``images``, which lies where the model runs.

    The first model is the baseline of the speed-ups. Raises MeasurementError if there are too few rounds or no warm-up.
    """
    with torch.inference_mode(), ExitStack() as modes:
        for model in models.values():
            modes.enter_context(evaluation_mode(model))
        work = [partial(model, images[name]) for name, model in models.items()]
        devices = [images[name].device for name in models]
        seconds = time_in_turn(work, devices, warmup=warmup, rounds=rounds)
    return {name: Latency.of(seconds, index) for index, name in enumerate(models)}


def time_loading(load: Callable[[], Tensor], *, warmup: int, rounds: int) -> float:
    """Median milliseconds of ``load``, which fetches one batch and returns it on its device."""
    device = load().device
    for _ in range(warmup):
        load()
    return 1000 * float(np.median([seconds_of(load, device) for _ in range(rounds)]))


def time_pipeline(
    saved: Mapping[str, SavedModel], packed: PackedData, options: EvaluateOptions, device: torch.device
) -> dict[str, Any]:
    """The content of ``metrics/timing.json`` for models on ``device``.

    Holds the latency of every model at every batch size, the time to fetch one batch, and what the figures were taken
    on. Raises as ``time_models``.
    """
    timing: dict[str, Any] = {name: {} for name in saved}
    models = {name: model.model for name, model in saved.items()}
    preprocessing = next(iter(saved.values())).preprocessing
    repetitions = {"warmup": options.timing_warmup, "rounds": options.timing_rounds}
    loading = {}
    for batch_size in options.timing_batch_sizes:
        # A small test split is repeated: the time depends on the shape, not on the values.
        rows = np.arange(batch_size) % len(packed.test)

        def load(rows: np.ndarray = rows) -> Tensor:
            return preprocessing(torch.from_numpy(packed.test.images[rows]).to(device))

        for name, latency in time_models(models, dict.fromkeys(models, load()), **repetitions).items():
            timing[name][f"batch_{batch_size}"] = latency.as_metrics(batch_size)
        loading[f"batch_{batch_size}"] = {"median_ms": round(time_loading(load, **repetitions), 4)}
    return timing | {
        "loader": loading,
        "machine": describe_machine(device),
        "dtype": "float32",
        "rounds": options.timing_rounds,
        "warmup": options.timing_warmup,
    }
