"""The training loop, the same for the baseline and for fine-tuning: steps, validation, records, and the state file."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitprune.data.packed import Split
from vitprune.distributed import largest, world
from vitprune.errors import DataError, TrainingError
from vitprune.model.checkpoint import Preprocessing
from vitprune.model.predict import predict
from vitprune.model.score import Score, score
from vitprune.model.vit import ViT
from vitprune.training.batches import PlacedSplit, batch_starts, check_split, place
from vitprune.training.distillation import Distiller
from vitprune.training.forward import attention_kernels
from vitprune.training.gradients import LayerGradient
from vitprune.training.history import EpochRecord
from vitprune.training.options import TrainOptions
from vitprune.training.precision import Precision, check_precision
from vitprune.training.randomness import deterministic_kernels
from vitprune.training.schedule import WarmupCosine
from vitprune.training.state import StateFile, StopRequest, stop_requests
from vitprune.training.steps import Steps
from vitprune.training.weights import weights_digest

logger = logging.getLogger(__name__)

IGNORED_IN_STATE = {"checkpoint_minutes", "teacher", "distillation"}
"""Parts of the recipe that may differ when a run goes on, or that the distiller tells."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training run recorded; the weights are those after ``best_epoch``."""

    history: tuple[EpochRecord, ...]
    gradient_flow: tuple[LayerGradient, ...]
    best_epoch: int

    @property
    def best(self) -> EpochRecord:
        """The record of the best epoch."""
        return self.history[self.best_epoch - 1]


@dataclass
class _Progress:
    """What the epochs so far came to."""

    history: list[EpochRecord] = field(default_factory=list)
    gradient_flow: list[LayerGradient] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, record: EpochRecord, gradients: list[LayerGradient], model: ViT) -> None:
        """Count an epoch, and keep the weights if they are the best so far."""
        self.history.append(record)
        self.gradient_flow += gradients
        best = self.history[self.best_epoch - 1]
        if not self.best_epoch or (record.val_accuracy, -record.val_loss) > (best.val_accuracy, -best.val_loss):
            self.best_epoch = record.epoch
            self.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """All of it in plain values and tensors."""
        return {
            "history": [asdict(record) for record in self.history],
            "gradient_flow": [asdict(gradient) for gradient in self.gradient_flow],
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> _Progress:
        """What ``state`` was taken of."""
        return cls(
            history=[EpochRecord(**record) for record in state["history"]],
            gradient_flow=[LayerGradient(**gradient) for gradient in state["gradient_flow"]],
            best_epoch=state["best_epoch"],
            best_weights=state["best_weights"],
        )


def train(
    model: ViT,
    train_split: Split,
    val_split: Split,
    *,
    preprocessing: Preprocessing,
    epochs: int,
    learning_rate: float,
    warmup_epochs: float,
    recipe: TrainOptions,
    device: torch.device,
    precision: Precision,
    seed: int,
    distiller: Distiller | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    state_path: Path | None = None,
) -> TrainingResult:
    """Train ``model`` in place and leave it on ``device``, in evaluation mode, with its best weights.

    Best is the highest accuracy on the validation split, then the lower loss there, then the earlier epoch. Length,
    learning rate and warm-up are arguments of their own, since fine-tuning changes only those; the ``recipe`` gives
    the rest. ``on_step(done, total)`` counts optimizer steps over all epochs.

    Of several ranks each takes its share of every batch; all return the same, and one writes the state. Random numbers
    are drawn for whole batches, so that the weights are those of one rank, but for rounding.

    A ``distiller`` adds a teacher's answers to the labels; its teacher must be on ``device`` already. Parameters
    that do not require a gradient stay as they are.

    With ``state_path`` the state of the run is saved there after each epoch, every ``recipe.checkpoint_minutes``, and
    when SIGTERM or an interrupt from the keyboard comes, which then ends the process after the current step. A run
    that finds its state there goes on from it, to the same weights. The file stays, for the caller to remove.

    The same seed gives the same weights, bit by bit, on one device with one number of threads. Global random state is
    neither read nor changed.

    Raises DataError if a split is empty or does not fit the model, ConfigError if the device cannot train in this
    precision or the warm-up is too long, and TrainingError if loss or gradients are no longer finite (the weights are
    then still those before the step), the GPU's memory is too small, or the state is that of another run.
    """
    check_precision(precision, device)
    check_split(train_split, model.config, "training")
    check_split(val_split, model.config, "validation")
    if world().size > (largest_batch := min(recipe.batch_size, len(train_split.images))):
        raise DataError(
            f"{world().size} processes cannot share batches of {largest_batch} images; lower compute.processes, or "
            "raise train.batch_size"
        )
    steps = len(batch_starts(len(train_split.images), recipe.batch_size))
    schedule = WarmupCosine(peak=learning_rate, warmup_steps=warmup_epochs * steps, total_steps=epochs * steps)
    state_file = None
    if state_path is not None:
        identity = {
            "model": model.config,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "warmup_epochs": warmup_epochs,
            **{f"train.{name}": value for name, value in recipe if name not in IGNORED_IN_STATE},
            "distillation": distiller and distiller.options,
            "precision": precision,
            "seed": seed,
            "device": device.type,
            "preprocessing": preprocessing,
            "training images": _split_digest(train_split),
            "validation images": _split_digest(val_split),
            "teacher": distiller and weights_digest(distiller.teacher.model),
            "initial weights": weights_digest(model),
            "trained": sum(parameter.requires_grad for parameter in model.parameters()),
        }
        state_file = StateFile(state_path, identity, recipe.checkpoint_minutes)
    try:
        with (
            deterministic_kernels(device),
            attention_kernels(precision, device),
            stop_requests(enabled=state_file is not None) as request,
        ):
            model.to(device)
            work = Steps(
                model=model,
                images=place(train_split, device),
                preprocessing=preprocessing,
                recipe=recipe,
                schedule=schedule,
                device=device,
                precision=precision,
                seed=seed,
                distiller=distiller,
            )
            run = _Run(work, place(val_split, device), epochs, state_file, request, on_epoch, on_step)
            return run.finish()
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{device} ran out of memory at train.batch_size {recipe.batch_size}; lower train.batch_size, "
            f"or set compute.precision to bf16 ({str(error).splitlines()[0]})"
        ) from error


def _split_digest(split: Split) -> str:
    digest = hashlib.sha256(split.labels.tobytes())
    for first in range(0, len(split.images), 4096):
        digest.update(split.images[first : first + 4096].tobytes())
    return digest.hexdigest()[:16]


class _Run:
    """A training run from where it is to its end."""

    def __init__(
        self,
        steps: Steps,
        val: PlacedSplit,
        epochs: int,
        state_file: StateFile | None,
        request: StopRequest,
        on_epoch: Callable[[EpochRecord], None] | None,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        self.steps, self.val, self.epochs = steps, val, epochs
        self.state_file, self.request, self.on_epoch, self.on_step = state_file, request, on_epoch, on_step
        self.progress = _Progress()
        if state_file and (state := state_file.load()):
            steps.load_state(state["steps"])
            self.progress = _Progress.of_state(state["progress"])
            logger.info("goes on from %s: epoch %d, batch %d", state_file.path, steps.epoch, steps.done + 1)

    def finish(self) -> TrainingResult:
        """Train to the end; the model gets the best weights."""
        steps, progress = self.steps, self.progress
        while steps.epoch <= self.epochs:
            steps.train_epoch(self._after_step)
            record = self._record()
            progress.add(record, steps.meter.finish(record.epoch), steps.trained_model)
            logger.debug("epoch %d of %d: %s", record.epoch, self.epochs, record)
            if self.on_epoch is not None:
                self.on_epoch(record)
            steps.next_epoch()
            self._is_stopping()
            self._save()
        steps.model.load_state_dict(progress.best_weights)
        steps.model.eval()
        result = TrainingResult(
            history=tuple(progress.history),
            gradient_flow=tuple(progress.gradient_flow),
            best_epoch=progress.best_epoch,
        )
        logger.info(
            "trained %d epochs; best on validation: epoch %d, accuracy %.2f %%, loss %.4f",
            self.epochs,
            result.best_epoch,
            100 * result.best.val_accuracy,
            result.best.val_loss,
        )
        return result

    def _after_step(self, done: int) -> None:
        if self.on_step is not None:
            self.on_step(done, self.steps.schedule.total_steps)
        if self.state_file and (self._is_stopping() or self.state_file.is_due):
            self._save()

    def _is_stopping(self) -> bool:
        """Whether any rank was asked to stop; all learn it after the same step."""
        self.request.signal = largest(self.request.signal or 0) or None
        return self.request.signal is not None

    def _save(self) -> None:
        """Save the state, and leave if that was asked for."""
        if self.state_file:
            if world().is_main:
                self.state_file.save({"steps": self.steps.state(), "progress": self.progress.state()})
            if self.request.signal is not None:
                logger.info("stopped; run again to go on from %s", self.state_file.path)
                self.request.leave()

    def _record(self) -> EpochRecord:
        steps, sums = self.steps, self.steps.sums
        learning_rate = steps.optimisers[0].param_groups[0]["lr"]
        val_score = self._score()
        if not math.isfinite(val_score.loss):
            raise TrainingError(
                f"epoch {steps.epoch}: the validation loss is not finite ({val_score.loss}, learning rate "
                f"{learning_rate:.3g}); lower the learning rate"
            )
        return EpochRecord(
            epoch=steps.epoch,
            train_loss=sums.loss / sums.images,
            train_accuracy=None if sums.is_mixed else sums.correct / sums.images,
            val_loss=val_score.loss,
            val_accuracy=val_score.accuracy,
            learning_rate=learning_rate,
            seconds=sums.seconds,
            images_per_second=sums.images / sums.seconds,
        )

    def _score(self) -> Score:
        steps = self.steps
        logits = predict(
            steps.trained_model, self.val.images, steps.preprocessing, steps.recipe.batch_size, steps.device
        )
        return score(logits, self.val.labels)
