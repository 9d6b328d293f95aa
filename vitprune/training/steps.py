"""The optimizer steps of a training run, and everything that the next one depends on.

Legend of dimensions:
    b  images in the batch    c  channels

Batch k of epoch e, its augmentation and its dropout are functions of the seed, e and k alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vitprune.distributed import total, world
from vitprune.errors import TrainingError
from vitprune.model.checkpoint import Preprocessing
from vitprune.model.vit import ViT
from vitprune.training.average import average_of
from vitprune.training.batches import PlacedSplit
from vitprune.training.distillation import Distiller
from vitprune.training.forward import WholeBatchRandomness, compile_errors, make_forward
from vitprune.training.gradients import GradientMeter
from vitprune.training.inputs import Inputs
from vitprune.training.losses import smoothed_cross_entropy
from vitprune.training.optimiser import make_optimisers
from vitprune.training.options import TrainOptions
from vitprune.training.precision import Precision, autocast, make_scaler
from vitprune.training.randomness import Purpose, seed_for, seeded_global_rng
from vitprune.training.schedule import WarmupCosine


@dataclass
class EpochSums:
    """What the steps of an epoch came to so far; ``is_mixed`` says that its images had no one true class."""

    loss: float = 0.0
    images: int = 0
    correct: int = 0
    is_mixed: bool = False
    seconds: float = 0.0


class Steps:
    """A model with everything that its steps need.

    Its state between two steps is ``epoch`` (from 1), how many batches of it are ``done``, and what ``state`` holds.
    """

    def __init__(
        self,
        *,
        model: ViT,
        images: PlacedSplit,
        preprocessing: Preprocessing,
        recipe: TrainOptions,
        schedule: WarmupCosine,
        device: torch.device,
        precision: Precision,
        seed: int,
        distiller: Distiller | None,
    ) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.inputs = Inputs(
            images=images,
            preprocessing=preprocessing,
            augment=recipe.augment,
            num_classes=model.config.num_classes,
            batch_size=recipe.batch_size,
            seed=seed,
        )
        self.recipe = recipe
        self.schedule = schedule
        self.device = device
        self.precision = precision
        self.seed = seed
        self.distiller = distiller
        self.optimisers = make_optimisers(
            model, recipe.optimizer, learning_rate=schedule.peak, weight_decay=recipe.weight_decay
        )
        self.scaler = make_scaler(precision)
        self.average = average_of(model, recipe.ema_decay) if recipe.ema_decay is not None else None
        self.meter = GradientMeter(model)
        self._forward = make_forward(model, distiller, is_compiled=recipe.compile)
        self.epoch, self.done, self.sums = 1, 0, EpochSums()
        self._correct = torch.zeros((), device=device, dtype=torch.int64)

    @property
    def trained_model(self) -> ViT:
        """The model that is scored and kept: the average of the weights, if one is taken."""
        return cast("ViT", self.average.module) if self.average else self.model

    def train_epoch(self, after_step: Callable[[int], None]) -> None:
        """Take what is left of the epoch's steps; ``after_step`` gets the number of all steps taken so far."""
        self.model.train()
        batches = self.inputs.order(self.epoch)
        for k in range(self.done, len(batches)):
            start = time.perf_counter()
            self._step(batches[k], k, (self.epoch - 1) * len(batches) + k)
            self.done = k + 1
            self.sums.seconds += time.perf_counter() - start
            after_step((self.epoch - 1) * len(batches) + k + 1)
        start = time.perf_counter()
        self.sums.correct = int(self._correct)
        self.sums.seconds += time.perf_counter() - start

    def next_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch, self.done, self.sums = self.epoch + 1, 0, EpochSums()
        self._correct.zero_()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; the tensors are those in use."""
        return {
            "epoch": self.epoch,
            "done": self.done,
            "sums": vars(self.sums) | {"correct": int(self._correct)},
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "meter": self.meter.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.epoch, self.done, self.sums = state["epoch"], state["done"], EpochSums(**state["sums"])
        self._correct.fill_(self.sums.correct)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.meter.load_state(state["meter"])

    def _step(self, indices: Tensor, k: int, step: int) -> None:
        # Every rank prepares the whole batch: what is mixed with what must not depend on their number.
        inputs, targets = self.inputs.batch(indices, self.epoch, k)
        rows = world().share_of(len(indices))
        # A rank without images still takes part, with one that does not count.
        weight = (rows.stop - rows.start) / len(indices)
        inputs, targets = (part[rows] if weight else part[:1] for part in (inputs, targets))
        with seeded_global_rng(seed_for(self.seed, Purpose.DROPOUT, self.epoch, k), self.device):
            with self._randomness(rows, len(indices)), autocast(self.precision, self.device), compile_errors():
                logits, streams = self._forward(inputs)
            loss = smoothed_cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
            if self.distiller is not None:
                with autocast(self.precision, self.device):
                    answers = self.distiller.ask(inputs)
                loss = self.distiller.loss(loss, (logits, streams), answers)
        value = self._descend(weight * loss, self.schedule(step), f"epoch {self.epoch}, batch {k + 1}")
        if self.average:
            self.average.update_parameters(self.model)
        self.sums.loss += len(indices) * value
        self.sums.images += len(indices)
        if targets.ndim == 1:
            correct = (logits.detach().argmax(dim=1) == targets).sum()
            self._correct += total(correct if weight else torch.zeros_like(correct))
        else:
            self.sums.is_mixed = True

    def _randomness(self, rows: slice, count: int) -> AbstractContextManager[object]:
        # A compiled model draws its random numbers in its own way.
        if world().size == 1 or self.recipe.compile:
            return nullcontext()
        return WholeBatchRandomness(rows if rows.stop > rows.start else slice(0, 1), count)

    def _descend(self, loss: Tensor, learning_rate: float, where: str) -> float:
        """Take one optimizer step down the sum of all ranks' ``loss`` and return its value.

        TrainingError instead if it is not finite.
        """
        self.model.zero_grad(set_to_none=True)
        # Gradients come as the mean over the ranks.
        self.scaler.scale(world().size * loss).backward()
        loss = total(loss.detach().clone())
        for optimiser in self.optimisers:
            self.scaler.unscale_(optimiser)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        # Both at once: each look at a number makes a GPU wait.
        loss_value, norm_value = torch.stack([loss, norm]).tolist()
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
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            self.scaler.step(optimiser)
        self.scaler.update()
        return loss_value
