"""The recipe of the evaluate stage: what pruning and fine-tuning did to loss, accuracy and inference time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.data.packed import PackedData
from vitprune.device import ComputeOptions, describe_machine, set_threads
from vitprune.distributed import world
from vitprune.evaluation.confusion import confusion_matrix
from vitprune.evaluation.cost import multiply_adds, num_parameters
from vitprune.evaluation.options import EvaluateOptions
from vitprune.evaluation.table import CIRCUIT
from vitprune.evaluation.timing import time_loading, time_models
from vitprune.model import SavedModel
from vitprune.model.predict import predict
from vitprune.model.score import Score, score


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores and costs by model, latency by model, and the confusion matrix of the pruned and fine-tuned model."""

    scores: dict[str, Any]
    times: dict[str, Any]
    confusion: NDArray[np.int64]


def evaluate(
    packed: PackedData,
    models: dict[str, SavedModel],
    sizes: dict[str, int],
    circuit: Circuit,
    circuit_model: SavedModel,
    options: EvaluateOptions,
    compute: ComputeOptions,
    device: torch.device,
) -> Evaluation | None:
    """Score models and the masked circuit on the test images, and time the models side by side.

    ``models`` and their ``sizes`` on disk, in bytes, go by the names of the table. Of several ranks, all score, the
    main one times, and the others return None.
    """
    test, batch_size = packed.test, options.batch_size
    logits = {
        name: predict(saved.model, test.images, saved.preprocessing, batch_size, device)
        for name, saved in models.items()
    }
    masked = circuit.as_module(circuit_model.model)
    masked_logits = predict(masked, test.images, circuit_model.preprocessing, batch_size, device)
    if not world().is_main:
        return None
    # The other ranks are done: models are timed with all threads.
    set_threads(compute.threads)
    scores: dict[str, Any] = {
        name: describe(saved, sizes[name], score(logits[name], test.labels)) for name, saved in models.items()
    }
    scores[CIRCUIT] = score(masked_logits, test.labels).as_metrics() | {
        "edges": len(circuit.graph.edges),
        "edges_kept": len(circuit.kept),
        "edges_on_paths": len(circuit.closed().kept),
    }
    scores |= {"test_images": len(test), "seed": compute.seed}
    return Evaluation(
        scores=scores,
        times=time_all(models, packed, options, device),
        confusion=confusion_matrix(logits["upgraded_baseline_pruned"], test.labels),
    )


def describe(saved: SavedModel, size: int, test_score: Score) -> dict[str, float]:
    """Scores on the test images, and what the model costs on disk and in arithmetic, as metrics."""
    return test_score.as_metrics() | {
        "parameters": num_parameters(saved.model),
        "multiply_adds": multiply_adds(saved.model.config),
        "bytes": size,
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
