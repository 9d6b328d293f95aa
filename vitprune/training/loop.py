"""The training loop, the same for the baseline and for fine-tuning.

Legend of dimensions:
    b  images in the batch    c  channels

Batch k of epoch e, its augmentation and its dropout are functions of the seed, e and k alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vitprune.config import TrainParams
from vitprune.data.augment import augment_images, mix
from vitprune.data.packed import Split
from vitprune.errors import TrainingError
from vitprune.model.checkpoint import Preprocessing
from vitprune.model.predict import predict
from vitprune.model.score import Score, score
from vitprune.model.vit import ViT
from vitprune.training.batches import PlacedSplit, batch_starts, check_split, epoch_batches, place
from vitprune.training.gradients import GradientMeter, LayerGradient
from vitprune.training.history import EpochRecord
from vitprune.training.losses import smoothed_cross_entropy
from vitprune.training.optimiser import make_optimiser
from vitprune.training.precision import Precision, autocast, check_precision, make_scaler
from vitprune.training.randomness import Purpose, deterministic_kernels, seed_for, seeded_global_rng
from vitprune.training.schedule import WarmupCosine

logger = logging.getLogger(__name__)


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


def train(
    model: ViT,
    train_split: Split,
    val_split: Split,
    *,
    preprocessing: Preprocessing,
    epochs: int,
    learning_rate: float,
    warmup_epochs: float,
    recipe: TrainParams,
    device: torch.device,
    precision: Precision,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train ``model`` in place and leave it on ``device``, in evaluation mode, with its best weights.

    Best is the highest accuracy on the validation split, then the lower loss there, then the earlier epoch. Length,
    learning rate and warm-up are arguments of their own, since fine-tuning changes only those; the ``recipe`` gives
    the rest. ``on_step(done, total)`` counts optimizer steps over all epochs.

    The same seed gives the same weights, bit by bit, on one device with one number of threads. Global random state is
    neither read nor changed.

    Raises DataError if a split is empty or does not fit the model, ConfigError if the device cannot train in this
    precision or the warm-up is too long, and TrainingError if loss or gradients are no longer finite (the weights are
    then still those before the step) or the GPU's memory is too small.
    """
    check_precision(precision, device)
    check_split(train_split, model.config, "training")
    check_split(val_split, model.config, "validation")
    steps = len(batch_starts(len(train_split.images), recipe.batch_size))
    schedule = WarmupCosine(peak=learning_rate, warmup_steps=warmup_epochs * steps, total_steps=epochs * steps)
    try:
        with deterministic_kernels(device):
            model.to(device)
            run = _Run(
                model=model,
                images=place(train_split, device),
                preprocessing=preprocessing,
                recipe=recipe,
                schedule=schedule,
                device=device,
                precision=precision,
                seed=seed,
                on_step=on_step,
            )
            return _train_epochs(run, place(val_split, device), epochs, on_epoch)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{device} ran out of memory at train.batch_size {recipe.batch_size}; lower train.batch_size, "
            f"or set compute.precision to bf16 ({str(error).splitlines()[0]})"
        ) from error


def _train_epochs(
    run: _Run, val: PlacedSplit, epochs: int, on_epoch: Callable[[EpochRecord], None] | None
) -> TrainingResult:
    history: list[EpochRecord] = []
    gradient_flow: list[LayerGradient] = []
    best: EpochRecord | None = None
    best_weights: dict[str, Tensor] = {}
    for epoch in range(1, epochs + 1):
        trained = run.train_epoch(epoch)
        val_score = _score_on(run, val)
        if not math.isfinite(val_score.loss):
            raise TrainingError(
                f"epoch {epoch}: the validation loss is not finite ({val_score.loss}, learning rate "
                f"{trained.learning_rate:.3g}); lower the learning rate"
            )
        record = EpochRecord(
            epoch=epoch,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            val_loss=val_score.loss,
            val_accuracy=val_score.accuracy,
            learning_rate=trained.learning_rate,
            seconds=trained.seconds,
            images_per_second=trained.images / trained.seconds,
        )
        history.append(record)
        gradient_flow += run.meter.finish(epoch)
        if best is None or (record.val_accuracy, -record.val_loss) > (best.val_accuracy, -best.val_loss):
            best = record
            best_weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        logger.debug("epoch %d of %d: %s", epoch, epochs, record)
        if on_epoch is not None:
            on_epoch(record)
    assert best is not None
    run.model.load_state_dict(best_weights)
    run.model.eval()
    logger.info(
        "trained %d epochs; best on validation: epoch %d, accuracy %.2f %%, loss %.4f",
        epochs,
        best.epoch,
        100 * best.val_accuracy,
        best.val_loss,
    )
    return TrainingResult(history=tuple(history), gradient_flow=tuple(gradient_flow), best_epoch=best.epoch)


def _score_on(run: _Run, split: PlacedSplit) -> Score:
    logits = predict(run.model, split.images, run.preprocessing, run.recipe.batch_size, run.device)
    return score(logits, split.labels)


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What the training steps of one epoch came to."""

    loss: float
    accuracy: float | None
    learning_rate: float
    seconds: float
    images: int


class _Run:
    """A model with everything that its steps need; the optimizer and the scaler are the only state between epochs."""

    def __init__(
        self,
        *,
        model: ViT,
        images: PlacedSplit,
        preprocessing: Preprocessing,
        recipe: TrainParams,
        schedule: WarmupCosine,
        device: torch.device,
        precision: Precision,
        seed: int,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        self.model = model
        self.images = images
        self.preprocessing = preprocessing
        self.recipe = recipe
        self.schedule = schedule
        self.device = device
        self.precision = precision
        self.seed = seed
        self.on_step = on_step
        self.optimiser = make_optimiser(model, learning_rate=schedule.peak, weight_decay=recipe.weight_decay)
        self.scaler = make_scaler(precision)
        self.meter = GradientMeter(model)

    def train_epoch(self, epoch: int) -> _Trained:
        """Go once through the images; ``epoch`` counts from 1."""
        self.model.train()
        order_seed = seed_for(self.seed, Purpose.ORDER, epoch)
        batches = epoch_batches(len(self.images), self.recipe.batch_size, seed=order_seed)
        total_loss, images, learning_rate = 0.0, 0, 0.0
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        hard_labels = True
        start = time.perf_counter()
        for k, indices in enumerate(batches):
            step = (epoch - 1) * len(batches) + k
            learning_rate = self.schedule(step)
            inputs, targets = self._prepare(indices, epoch, k)
            with seeded_global_rng(seed_for(self.seed, Purpose.DROPOUT, epoch, k), self.device):
                with autocast(self.precision, self.device):
                    logits = self.model(inputs)
                loss = smoothed_cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
            total_loss += len(indices) * self._descend(loss, learning_rate, f"epoch {epoch}, batch {k + 1}")
            images += len(indices)
            hard_labels = targets.ndim == 1
            if hard_labels:
                correct += (logits.detach().argmax(dim=1) == targets).sum()
            if self.on_step is not None:
                self.on_step(step + 1, self.schedule.total_steps)
        accuracy = correct.item() / images if hard_labels else None
        seconds = time.perf_counter() - start
        return _Trained(
            loss=total_loss / images,
            accuracy=accuracy,
            learning_rate=learning_rate,
            seconds=seconds,
            images=images,
        )

    def _prepare(self, indices: Tensor, epoch: int, k: int) -> tuple[Tensor, Tensor]:
        """Augmented and normalised images ``(b, c, height, width)``, and targets ``(b,)`` or ``(b, num_classes)``."""
        pixels, labels = self.images.batch(indices)
        augment = self.recipe.augment
        images = augment_images(pixels.float() / 255, augment, seed=seed_for(self.seed, Purpose.IMAGES, epoch, k))
        return mix(
            self.preprocessing.normalise(images),
            labels,
            augment,
            num_classes=self.model.config.num_classes,
            seed=seed_for(self.seed, Purpose.MIXING, epoch, k),
        )

    def _descend(self, loss: Tensor, learning_rate: float, where: str) -> float:
        """Take one optimizer step down ``loss`` and return its value; TrainingError instead if it is not finite."""
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        # Both at once: each look at a number makes a GPU wait.
        loss_value, norm_value = torch.stack([loss.detach(), norm]).tolist()
        finite_gradients = math.isfinite(norm_value)
        # With fp16, gradients overflow now and then: the scaler leaves such a step out and lowers its scale.
        if not math.isfinite(loss_value) or (not finite_gradients and not self.scaler.is_enabled()):
            what = "loss" if not math.isfinite(loss_value) else "gradient norm"
            raise TrainingError(
                f"{where}: the {what} is not finite (loss {loss_value}, gradient norm {norm_value}, learning rate "
                f"{learning_rate:.3g}); lower the learning rate, lengthen warmup_epochs, or use compute.precision fp32"
            )
        if finite_gradients:
            self.meter.record()
        clip_grads_with_norm_(self.model.parameters(), self.recipe.clip_norm, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss_value
