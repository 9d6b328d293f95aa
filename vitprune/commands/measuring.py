"""What the evaluate command measures, model by model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.data.packed import PackedData
from vitprune.device import describe_machine
from vitprune.evaluation.cost import multiply_adds, num_parameters
from vitprune.evaluation.options import EvaluateOptions
from vitprune.evaluation.timing import time_loading, time_models
from vitprune.model import SavedModel
from vitprune.model.score import Score

FOLDERS = {
    "baseline": "baseline",
    "baseline_pruned": "pruned",
    "upgraded_baseline": "finetuned/baseline",
    "upgraded_baseline_pruned": "finetuned/pruned",
}
"""Where each model of the table lies in the folder of models."""

FINAL = "upgraded_baseline_pruned"


def describe(saved: SavedModel, folder: Path, test_score: Score) -> dict[str, float]:
    """Scores on the test images, and what the model costs on disk and in arithmetic, as metrics."""
    return test_score.as_metrics() | {
        "parameters": num_parameters(saved.model),
        "multiply_adds": multiply_adds(saved.model.config),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
    }


def time_all(
    saved: dict[str, SavedModel], packed: PackedData, options: EvaluateOptions, device: torch.device
) -> dict[str, Any]:
    """Latency of every model at every batch size, of fetching one batch, and what the figures were taken on."""
    timing: dict[str, Any] = {name: {} for name in saved}
    models = {name: model.model for name, model in saved.items()}
    preprocessing = next(iter(saved.values())).preprocessing
    loading = {}
    for batch_size in options.timing_batch_sizes:
        # Small test splits are repeated: the values do not matter to the time, the shape does.
        rows = np.arange(batch_size) % len(packed.test)

        def load(rows: np.ndarray = rows) -> Tensor:
            return preprocessing(torch.from_numpy(packed.test.images[rows]).to(device))

        repetitions = {"warmup": options.timing_warmup, "rounds": options.timing_rounds}
        for name, latency in time_models(models, load(), **repetitions).items():
            timing[name][f"batch_{batch_size}"] = latency.as_metrics(batch_size)
        loading[f"batch_{batch_size}"] = {"median_ms": round(time_loading(load, **repetitions), 4)}
    return timing | {
        "loader": loading,
        "machine": describe_machine(device),
        "dtype": "float32",
        "rounds": options.timing_rounds,
        "warmup": options.timing_warmup,
    }
