"""What training the baseline and fine-tuning share: the call into the trainer, and what is reported of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from vitprune.commands.terminal import training_progress
from vitprune.config import Params
from vitprune.data.packed import PackedData, Split
from vitprune.device import describe_machine, keep_freed_memory
from vitprune.model import SavedModel
from vitprune.model.predict import predict
from vitprune.model.score import score
from vitprune.training import Compute, TrainingResult
from vitprune.training import train as train_model
from vitprune.training.compute import choose_precision
from vitprune.training.distillation import Distiller, check_teacher
from vitprune.training.options import TrainOptions
from vitprune.training.weights import only_cut_sublayers


def fit(
    saved: SavedModel,
    packed: PackedData,
    params: Params,
    recipe: TrainOptions,
    device: torch.device,
    *,
    description: str,
    state: Path,
    teacher: SavedModel | None,
    scope: Literal["all", "cut"] = "all",
) -> TrainingResult:
    """Train a model in place by a recipe; with ``scope`` cut, only the sublayers of a pruned model that lost something.

    An interrupted training leaves ``state``, from which the next one goes on. A ``teacher`` on ``device`` is used if
    ``recipe.distillation`` gives it any weight.
    """
    if device.type == "cpu":
        keep_freed_memory()
    distiller = None
    if teacher is not None and recipe.distillation.is_on:
        check_teacher(teacher, saved, recipe.distillation)
        distiller = Distiller(teacher, recipe.distillation, saved.preprocessing)
    trained = only_cut_sublayers(saved.model) if scope == "cut" else nullcontext()
    with trained, training_progress(description) as (on_epoch, on_step):
        return train_model(
            saved.model,
            packed.train,
            packed.val,
            recipe,
            preprocessing=saved.preprocessing,
            compute=Compute(
                device=device,
                precision=choose_precision(params.compute.precision, device),
                seed=params.compute.seed,
            ),
            distiller=distiller,
            on_epoch=on_epoch,
            on_step=on_step,
            state_path=state,
        )


def scores_on(saved: SavedModel, split: Split, device: torch.device) -> dict[str, float]:
    """Loss and accuracies of a model on a split, as metrics."""
    logits = predict(saved.model, split.images, saved.preprocessing, device=device)
    return score(logits, split.labels).as_metrics()


def metrics_of(saved: SavedModel, result: TrainingResult, packed: PackedData, device: torch.device) -> dict[str, Any]:
    """Scores of the best weights on both splits that training saw, and the epoch they come from."""
    return {
        "train": scores_on(saved, packed.train, device),
        "val": scores_on(saved, packed.val, device),
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
    }


def timing_of(result: TrainingResult, params: Params, device: torch.device) -> dict[str, Any]:
    """Seconds that the training steps took, and on what."""
    seconds = sum(record.seconds for record in result.history)
    images = sum(record.seconds * record.images_per_second for record in result.history)
    return {
        "seconds": round(seconds, 2),
        "images_per_second": round(images / seconds, 1),
        "precision": choose_precision(params.compute.precision, device),
        "machine": describe_machine(device),
    }
