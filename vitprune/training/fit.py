"""Training as the stages train and finetune share it: set-up before the loop, and metrics after it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vitprune.core.compute.device import ComputeOptions, describe_machine, keep_freed_memory
from vitprune.core.model import SavedModel
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.core.packed import PackedData, Split
from vitprune.training.compute import Compute, choose_precision
from vitprune.training.distillation import Distiller, check_teacher
from vitprune.training.loop import OnEpoch, OnStep, train
from vitprune.training.options import TrainOptions
from vitprune.training.progress import TrainingResult
from vitprune.training.weights import only_cut_sublayers


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model with its best weights, the records of its training, and its metrics."""

    saved: SavedModel
    result: TrainingResult
    scores: dict[str, Any]
    timing: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Callbacks of a training: after each epoch, and after each step with the number of steps done and of all steps."""

    on_epoch: OnEpoch | None = None
    on_step: OnStep | None = None


def fit(
    saved: SavedModel,
    packed: PackedData,
    options: TrainOptions,
    compute: ComputeOptions,
    device: torch.device,
    *,
    teacher: SavedModel | None = None,
    state: Path | None = None,
    progress: TrainingProgress | None = None,
    scope: Literal["all", "cut"] = "all",
    may_stay: bool = False,
) -> TrainingResult:
    """Train a model in place; if it ``may_stay``, the weights before the first step count as epoch 0.

    With ``scope`` cut, only those sublayers of a pruned model are trained that lost something. A ``teacher``
    on ``device`` is used if ``options.distillation`` says so.
    """
    if device.type == "cpu":
        keep_freed_memory()
    distiller = None
    if teacher is not None and options.distillation.is_on:
        check_teacher(teacher, saved, options.distillation)
        distiller = Distiller(teacher, options.distillation, saved.preprocessing)
    progress = progress or TrainingProgress()
    with only_cut_sublayers(saved.model) if scope == "cut" else nullcontext():
        return train(
            saved.model,
            packed.train,
            packed.val,
            options,
            preprocessing=saved.preprocessing,
            compute=Compute(device=device, precision=choose_precision(compute.precision, device), seed=compute.seed),
            distiller=distiller,
            on_epoch=progress.on_epoch,
            on_step=progress.on_step,
            state_path=state,
            may_stay=may_stay,
        )


def trained(
    saved: SavedModel, result: TrainingResult, packed: PackedData, compute: ComputeOptions, device: torch.device
) -> Trained:
    """A trained model with its scores on both splits that training saw, and the time that its steps took."""
    seconds = sum(record.seconds for record in result.history)
    images = sum(record.seconds * record.images_per_second for record in result.history)
    return Trained(
        saved=saved,
        result=result,
        scores={
            "train": scores_on(saved, packed.train, device),
            "val": scores_on(saved, packed.val, device),
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
        },
        timing={
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 1),
            "precision": choose_precision(compute.precision, device),
            "machine": describe_machine(device),
        },
    )


def scores_on(saved: SavedModel, split: Split, device: torch.device) -> dict[str, float]:
    """Loss and accuracies of a model on a split, as metrics."""
    logits = predict(saved.model, split.images, saved.preprocessing, device=device)
    return score(logits, split.labels).as_metrics()
