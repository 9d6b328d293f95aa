"""The optimiser steps of a training run, and everything that the next step depends on.

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
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vitprune.core.compute.distributed import total, world
from vitprune.core.model.checkpoint import Preprocessing
from vitprune.core.model.vit import ViT
from vitprune.errors import TrainingError
from vitprune.training.batches import PlacedSplit, batch_starts
from vitprune.training.compute import Compute
from vitprune.training.distillation import Distiller
from vitprune.training.forward import compile_errors, make_forward
from vitprune.training.gradients import GradientMeter
from vitprune.training.inputs import Inputs
from vitprune.training.optimiser import WarmupCosine, allocate_memory, average_of, make_optimisers, memory_of
from vitprune.training.options import TrainOptions
from vitprune.training.randomness import WholeBatchRandomness, dropout_seed, seeded_global_rng
from vitprune.training.state import State, check_numbers, check_tensors


@dataclass
class EpochSums:
    """Sums over the steps of an epoch so far; ``is_mixed`` means that its images have no one true class."""

    loss: float = 0.0
    images: int = 0
    correct: int = 0
    is_mixed: bool = False
    seconds: float = 0.0


class Steps:
    """A model, its data and its optimisers.

    Between two steps the run is at batch ``done`` of ``epoch`` (from 1), and ``state`` holds all that changes.
    """

    def __init__(
        self,
        model: ViT,
        images: PlacedSplit,
        options: TrainOptions,
        *,
        preprocessing: Preprocessing,
        compute: Compute,
        distiller: Distiller | None = None,
    ) -> None:
        self.model, self.options, self.compute, self.distiller = model, options, compute, distiller
        self.inputs = Inputs(
            images=images,
            preprocessing=preprocessing,
            augment=options.augment,
            num_classes=model.config.num_classes,
            batch_size=options.batch_size,
            seed=compute.seed,
        )
        self.steps_per_epoch = len(batch_starts(len(images), options.batch_size))
        self.schedule = WarmupCosine(
            peak=options.learning_rate,
            warmup_steps=options.warmup_epochs * self.steps_per_epoch,
            total_steps=options.epochs * self.steps_per_epoch,
        )
        self.optimisers = make_optimisers(
            model, options.optimizer, learning_rate=options.learning_rate, weight_decay=options.weight_decay
        )
        allocate_memory(model, self.optimisers)
        self.scaler = compute.scaler()
        self.average = average_of(model, options.ema_decay) if options.ema_decay is not None else None
        self.meter = GradientMeter(model)
        self._forward = make_forward(model, distiller, is_compiled=options.compile)
        self.epoch, self.done, self.sums = 1, 0, EpochSums()
        self._correct = torch.zeros((), device=compute.device, dtype=torch.int64)

    @property
    def trained_model(self) -> ViT:
        """The model that is scored and kept: the moving average of the weights, if there is one."""
        return cast("ViT", self.average.module) if self.average else self.model

    @property
    def all_done(self) -> int:
        """The number of steps taken in all epochs."""
        return (self.epoch - 1) * self.steps_per_epoch + self.done

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self.schedule(self.all_done - 1)

    def train_epoch(self, after_step: Callable[[], None]) -> None:
        """Take the remaining steps of the epoch, calling ``after_step`` after each."""
        self.model.train()
        batches = self.inputs.order(self.epoch)
        for k in range(self.done, len(batches)):
            start = time.perf_counter()
            self._step(batches[k], k)
            self.done = k + 1
            self.sums.seconds += time.perf_counter() - start
            after_step()
        start = time.perf_counter()
        self.sums.correct = int(self._correct)
        self.sums.seconds += time.perf_counter() - start

    def next_epoch(self) -> None:
        """Go on to the next epoch."""
        self.epoch, self.done, self.sums = self.epoch + 1, 0, EpochSums()
        self._correct.zero_()

    def state(self) -> State:
        """Everything that the next step depends on; the tensors are not copied."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in memory_of(self.optimisers).items()}
        if self.average:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors |= {"gradient sums": self.meter.sums, "gradient maxima": self.meter.largest}
        return State(
            tensors=tensors,
            numbers={
                "epoch": self.epoch,
                "done": self.done,
                "sums": vars(self.sums) | {"correct": int(self._correct)},
                "scaler": self.scaler.state_dict(),
                "measured gradients": self.meter.steps,
            },
        )

    def check_state(self, state: State) -> None:
        """Raise ValueError if a run of this kind does not come to ``state``."""
        fresh = self.state()
        check_tensors(fresh.tensors, state.tensors)
        check_numbers(fresh.numbers, state.numbers)
        epoch, done, sums = state.numbers["epoch"], state.numbers["done"], state.numbers["sums"]
        if not 1 <= epoch <= self.options.epochs + 1:
            raise ValueError(f"epoch {epoch} of {self.options.epochs}")
        batches = self.inputs.order(epoch)[:done] if epoch <= self.options.epochs else []
        if len(batches) != done or sums["images"] != sum(map(len, batches)):
            raise ValueError(f"{sums['images']} images in {done} batches of epoch {epoch}")
        if sums["correct"] > sums["images"] or state.numbers["measured gradients"] > done:
            raise ValueError(f"more was counted than happens in {done} batches")

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Restore what ``state`` returned. Raises ValueError, before anything changes, as ``check_state``."""
        self.check_state(state)
        # They are the tensors that the model, the optimisers, the average and the meter work with.
        for name, tensor in self.state().tensors.items():
            tensor.copy_(state.tensors[name])
        numbers = state.numbers
        self.epoch, self.done, self.sums = numbers["epoch"], numbers["done"], EpochSums(**numbers["sums"])
        self._correct.fill_(self.sums.correct)
        self.scaler.load_state_dict(numbers["scaler"])
        self.meter.steps = numbers["measured gradients"]

    def _step(self, indices: Tensor, k: int) -> None:
        # Each rank prepares the whole batch, so that mixing does not depend on the number of ranks.
        inputs, targets = self.inputs.batch(indices, self.epoch, k)
        rows = world().share_of(len(indices))
        weight = (rows.stop - rows.start) / len(indices)
        if not weight:
            # A rank without rows takes part with one of weight zero, because the others wait for its gradients.
            rows = slice(0, 1)
        inputs, targets = inputs[rows], targets[rows]
        seed = dropout_seed(self.compute.seed, self.epoch, k, is_compiled=self.options.compile)
        with seeded_global_rng(seed, self.compute.device):
            with self._whole_batch_randomness(rows, len(indices)), self.compute.autocast(), compile_errors():
                logits, streams = self._forward(inputs)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.options.label_smoothing)
            if self.distiller is not None:
                with self.compute.autocast():
                    teacher_outputs = self.distiller.teacher_outputs(inputs)
                loss = self.distiller.loss(loss, (logits, streams), teacher_outputs)
        self.sums.loss += len(indices) * self._descend(weight * loss, k)
        self.sums.images += len(indices)
        if targets.ndim == 1:
            correct = (logits.detach().argmax(dim=1) == targets).sum()
            self._correct += total(correct if weight else torch.zeros_like(correct))
        else:
            self.sums.is_mixed = True

    def _whole_batch_randomness(self, rows: slice, count: int) -> AbstractContextManager[object]:
        # Compiled code does not pass through it, hence the seed of its own that each rank then has.
        if world().size == 1 or self.options.compile:
            return nullcontext()
        return WholeBatchRandomness(rows, count)

    def _descend(self, loss: Tensor, k: int) -> float:
        """Take one step down the sum of all ranks' ``loss`` and return that sum.

        With fp16, gradients overflow now and then. The whole step is then skipped, on all optimisers, and the scaler
        lowers its scale. Otherwise a loss or gradient that is not finite raises TrainingError before the step.
        """
        self.model.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over the ranks.
        self.scaler.scale(world().size * loss).backward()
        loss = total(loss.detach().clone())
        for optimiser in self.optimisers:
            self.scaler.unscale_(optimiser)
        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # Read together, because a GPU waits at each read.
        loss_value, norm_value = torch.stack([loss, norm]).tolist()
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            self._apply_gradients(norm, self.schedule(self.all_done))
        elif not math.isfinite(loss_value) or not self._is_scale_lowerable():
            what = "gradient norm" if math.isfinite(loss_value) else "loss"
            raise TrainingError(
                f"epoch {self.epoch}, batch {k + 1}: the {what} is not finite (loss {loss_value}, gradient norm "
                f"{norm_value}, learning rate {self.schedule(self.all_done):.3g}); lower the learning rate, lengthen "
                "warmup_epochs, or use compute.precision fp32"
            )
        self.scaler.update()
        return loss_value

    def _is_scale_lowerable(self) -> bool:
        """Whether the loss is scaled up. If gradients overflow at scale 1, a lower scale would hide the divergence."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def _apply_gradients(self, norm: Tensor, learning_rate: float) -> None:
        self.meter.record()
        clip_grads_with_norm_(self.model.parameters(), self.options.clip_norm, norm)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
            self.scaler.step(optimiser)
        if self.average:
            self.average.update_parameters(self.model)
