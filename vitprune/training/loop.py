"""The training loop of the baseline and of fine-tuning: steps, validation, records, and the state file."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitprune.core.compute.distributed import largest, world
from vitprune.core.model.checkpoint import Preprocessing
from vitprune.core.model.predict import predict
from vitprune.core.model.score import score
from vitprune.core.model.vit import ViT
from vitprune.core.packed import Split
from vitprune.errors import DataError, TrainingError
from vitprune.options import Options
from vitprune.training.batches import PlacedSplit, check_split, place
from vitprune.training.compute import Compute
from vitprune.training.distillation import Distiller
from vitprune.training.history import EpochRecord
from vitprune.training.options import TrainOptions
from vitprune.training.progress import Progress, ProgressNumbers, TrainingResult, ValScore
from vitprune.training.signals import StopRequest, leave, stop_requests
from vitprune.training.state import State, StateFile, check_tensors
from vitprune.training.steps import Steps
from vitprune.training.weights import weights_digest

logger = logging.getLogger(__name__)

OnEpoch = Callable[[EpochRecord], None]
OnStep = Callable[[int, int], None]
"""Called with the steps done and the total number of steps, over all epochs."""

BEST = "best."
"""How the names of the best weights begin in the state."""
NOT_IN_IDENTITY = {"checkpoint_minutes", "teacher", "distillation"}
"""Options that may change when a run goes on, or that the distiller replaces."""


def train(
    model: ViT,
    train_split: Split,
    val_split: Split,
    options: TrainOptions,
    *,
    preprocessing: Preprocessing,
    compute: Compute,
    distiller: Distiller | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    state_path: Path | None = None,
    may_stay: bool = False,
) -> TrainingResult:
    """Train ``model`` in place and leave it on the device, in evaluation mode, with its best weights.

    The best epoch has the highest accuracy on the validation split, then the lower loss there, then comes first. If the
    model ``may_stay`` as it is, its weights before the first step count as epoch 0.
    Parameters that do not require a gradient stay as they are. A ``distiller`` adds its teacher to the labels; the
    teacher must be on the device already, and ``options.distillation`` and ``options.teacher`` are not read.

    The same seed gives the same weights, bit by bit, on one device with one number of threads. Global random state is
    neither used nor changed. Several ranks share each batch and all return the same result. They draw random numbers
    for whole batches, so their weights equal those of one rank up to rounding, unless the model is compiled.

    With ``state_path`` the state of the run is saved there after each epoch, every ``options.checkpoint_minutes``, and
    after SIGTERM or a keyboard interrupt, which then ends the process after the current step. A run that finds its
    state there goes on from it, to the same weights. The caller removes the file.

    Raises DataError if a split is empty or does not fit the model, and TrainingError if loss or gradients are no longer
    finite (the weights are then still those before the step), the GPU's memory is too small, or the state belongs to
    another run.
    """
    check_split(train_split, model.config, "training")
    check_split(val_split, model.config, "validation")
    if world().size > (largest_batch := min(options.batch_size, len(train_split.images))):
        raise DataError(
            f"{world().size} processes cannot share batches of {largest_batch} images; lower compute.processes, or "
            "raise train.batch_size"
        )
    state_file = None
    if state_path is not None:
        identity = _identity(model, options, preprocessing, compute, distiller) | {
            "training images": _split_digest(train_split),
            "validation images": _split_digest(val_split),
            "may stay": may_stay,
        }
        state_file = StateFile(state_path, identity, options.checkpoint_minutes)
    try:
        with compute.kernels(), stop_requests(enabled=state_file is not None) as request:
            images = place(train_split, compute.device)
            steps = Steps(
                model.to(compute.device),
                images,
                options,
                preprocessing=preprocessing,
                compute=compute,
                distiller=distiller,
            )
            run = _Run(steps, place(val_split, compute.device), state_file, request, on_epoch, on_step)
            return run.finish(may_stay=may_stay)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{compute.device} ran out of memory at train.batch_size {options.batch_size}; lower train.batch_size, "
            f"or set compute.precision to bf16 ({str(error).splitlines()[0]})"
        ) from error


def _identity(
    model: ViT, options: TrainOptions, preprocessing: Preprocessing, compute: Compute, distiller: Distiller | None
) -> dict[str, Any]:
    """What tells a run from others with the same images."""
    return {
        "model": model.config,
        **{name: value for name, value in options if name not in NOT_IN_IDENTITY},
        "distillation": distiller and distiller.options,
        "precision": compute.precision,
        "seed": compute.seed,
        "device": compute.device.type,
        "preprocessing": preprocessing,
        "teacher": distiller and weights_digest(distiller.teacher.model),
        "initial weights": weights_digest(model),
        "trained": sum(parameter.requires_grad for parameter in model.parameters()),
    }


def _split_digest(split: Split) -> str:
    digest = hashlib.sha256(split.labels.tobytes())
    for first in range(0, len(split.images), 4096):
        digest.update(split.images[first : first + 4096].tobytes())
    return digest.hexdigest()[:16]


class RunNumbers(Options):
    """The numbers in the state of a run; those of its steps are checked there."""

    steps: dict[str, Any]
    progress: ProgressNumbers


class _Run:
    """A training run, from its saved state or the first step to the end."""

    def __init__(
        self,
        steps: Steps,
        val: PlacedSplit,
        state_file: StateFile | None,
        request: StopRequest,
        on_epoch: OnEpoch | None,
        on_step: OnStep | None,
    ) -> None:
        self.steps, self.val = steps, val
        self.state_file, self.request, self.on_epoch, self.on_step = state_file, request, on_epoch, on_step
        self.agreed_signal = 0
        self.progress = Progress()
        if state_file and (state := state_file.load()):
            try:
                self._restore(state)
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise state_file.refusal(f"not a state that this training comes to ({reason})") from None
            logger.info("goes on from %s: epoch %d, batch %d", state_file.path, steps.epoch, steps.done + 1)

    def _state(self) -> State:
        """The state of the whole run."""
        steps, progress = self.steps.state(), self.progress.state()
        return State(
            tensors=steps.tensors | {f"{BEST}{name}": tensor for name, tensor in progress.tensors.items()},
            numbers={"steps": steps.numbers, "progress": progress.numbers},
        )

    def _restore(self, state: State) -> None:
        """Go on from what ``_state`` returned; ValueError, before anything changes, if this run has no such state."""
        best = {name.removeprefix(BEST): tensor for name, tensor in state.tensors.items() if name.startswith(BEST)}
        others = {name: tensor for name, tensor in state.tensors.items() if not name.startswith(BEST)}
        numbers = RunNumbers.model_validate_json(json.dumps(state.numbers))
        steps = State(tensors=others, numbers=numbers.steps)
        self.steps.check_state(steps)
        numbers.progress.check(numbers.steps["epoch"] - 1, list(self.steps.meter.weights))
        check_tensors(self.steps.trained_model.state_dict() if numbers.progress.best else {}, best)
        self.steps.load_state(steps)
        self.progress = Progress.of_state(numbers.progress, best)

    def finish(self, *, may_stay: bool) -> TrainingResult:
        """Train to the end and give the model the best weights."""
        steps, progress, epochs = self.steps, self.progress, self.steps.options.epochs
        if may_stay and progress.best is None and math.isfinite((start := self._val_score()).loss):
            progress.consider(0, start, steps.trained_model)
        while steps.epoch <= epochs:
            steps.train_epoch(self._after_step)
            record = self._record()
            progress.add(record, steps.meter.finish(record.epoch), steps.trained_model)
            logger.debug("epoch %d of %d: %s", record.epoch, epochs, record)
            if self.on_epoch is not None:
                self.on_epoch(record)
            steps.next_epoch()
            self._agree_to_stop()
            self._save()
        steps.model.load_state_dict(progress.best_weights)
        steps.model.eval()
        return progress.result()

    def _after_step(self) -> None:
        if self.on_step is not None:
            self.on_step(self.steps.all_done, self.steps.schedule.total_steps)
        if self.state_file and (self._agree_to_stop() or self.state_file.is_due):
            self._save()

    def _agree_to_stop(self) -> bool:
        """Whether any rank was asked to stop; all ranks learn it after the same step.

        A signal may arrive while the ranks agree on none: it is kept for the next step.
        """
        self.agreed_signal = largest(self.request.signal or 0)
        return self.agreed_signal != 0

    def _save(self) -> None:
        """Save the state, and leave if the run is to stop."""
        if self.state_file:
            if world().is_main:
                self.state_file.save(self._state())
            if self.agreed_signal:
                logger.info("stopped; run again to go on from %s", self.state_file.path)
                leave(self.agreed_signal)

    def _val_score(self) -> ValScore:
        steps = self.steps
        logits = predict(
            steps.trained_model,
            self.val.images,
            steps.inputs.preprocessing,
            steps.options.batch_size,
            steps.compute.device,
        )
        found = score(logits, self.val.labels)
        return ValScore(accuracy=found.accuracy, loss=found.loss)

    def _record(self) -> EpochRecord:
        steps, sums, val_score = self.steps, self.steps.sums, self._val_score()
        if not math.isfinite(val_score.loss):
            raise TrainingError(
                f"epoch {steps.epoch}: the validation loss is not finite ({val_score.loss}, learning rate "
                f"{steps.learning_rate:.3g}); lower the learning rate"
            )
        return EpochRecord(
            epoch=steps.epoch,
            train_loss=sums.loss / sums.images,
            train_accuracy=None if sums.is_mixed else sums.correct / sums.images,
            val_loss=val_score.loss,
            val_accuracy=val_score.accuracy,
            learning_rate=steps.learning_rate,
            seconds=sums.seconds,
            images_per_second=sums.images / sums.seconds,
        )
