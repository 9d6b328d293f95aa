"""The recipe of the evaluate stage: what pruning and fine-tuning did to loss, accuracy and inference time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.circuit.metrics import kl_divergence
from vitprune.core.compute.device import ComputeOptions, set_threads
from vitprune.core.compute.distributed import world
from vitprune.core.model import SavedModel
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.core.packed import PackedData
from vitprune.evaluation.models import BASELINE, CIRCUIT, UPGRADED_BASELINE_PRUNED
from vitprune.evaluation.options import EvaluateOptions
from vitprune.evaluation.summary import model_metrics
from vitprune.evaluation.timing import time_pipeline


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores and costs by model, latency by model, and the logits ``(N, classes)`` of the pruned, fine-tuned model."""

    scores: dict[str, Any]
    times: dict[str, Any]
    logits: Tensor


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
        name: model_metrics(saved, sizes[name], score(logits[name], test.labels))
        | {"kl": kl_divergence(logits[BASELINE.name], logits[name])}
        for name, saved in models.items()
    }
    scores[CIRCUIT] = score(masked_logits, test.labels).as_metrics() | {
        "kl": kl_divergence(logits[BASELINE.name], masked_logits),
        "edges": len(circuit.graph.edges),
        "edges_kept": len(circuit.kept),
        "edges_on_paths": len(circuit.closed().kept),
    }
    largest = int(np.bincount(test.labels).max())
    scores |= {"test_images": len(test), "largest_class_share": largest / len(test), "seed": compute.seed}
    return Evaluation(
        scores=scores,
        times=time_pipeline(models, packed, options, device),
        logits=logits[UPGRADED_BASELINE_PRUNED.name],
    )
