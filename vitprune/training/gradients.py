"""The size of each layer's gradients over an epoch, which shows gradients that vanish or explode."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitprune.core.model.vit import ViT
from vitprune.training.weights import weight_matrices


@dataclass(frozen=True, kw_only=True)
class LayerGradient:
    """Size of the gradient of one weight matrix over one epoch, before clipping and without loss scaling.

    ``mean_abs`` is the mean absolute value over entries and steps, ``max_abs`` the largest.
    """

    epoch: int
    layer: str
    mean_abs: float
    max_abs: float


class GradientMeter:
    """Adds up gradient sizes step by step, on the device, and returns them at the end of an epoch."""

    def __init__(self, model: ViT) -> None:
        self.weights = weight_matrices(model)
        self.steps = 0
        device = next(model.parameters()).device
        # Thousands of small means are added up, so in float64 where the device has it.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(self.weights), device=device, dtype=dtype)
        self.largest = torch.zeros(len(self.weights), device=device)

    @torch.no_grad()
    def record(self) -> None:
        """Add the current gradients. A missing gradient counts as zero."""
        sizes = [torch.zeros_like(w) if w.grad is None else w.grad.abs() for w in self.weights.values()]
        self.sums += torch.stack([size.mean() for size in sizes])
        torch.maximum(self.largest, torch.stack([size.max() for size in sizes]), out=self.largest)
        self.steps += 1

    def finish(self, epoch: int) -> list[LayerGradient]:
        """The sizes since the last call, labelled with ``epoch``, from the first layer to the last."""
        means = (self.sums / max(self.steps, 1)).tolist()
        largest = self.largest.tolist()
        self.steps = 0
        self.sums.zero_()
        self.largest.zero_()
        return [
            LayerGradient(epoch=epoch, layer=layer, mean_abs=mean, max_abs=maximum)
            for layer, mean, maximum in zip(self.weights, means, largest, strict=True)
        ]
