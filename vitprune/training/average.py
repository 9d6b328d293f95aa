"""The exponential moving average of the weights, which often is a better model than the last step's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from vitprune.model.vit import ViT


def average_of(model: ViT, decay: float) -> AveragedModel:
    """A model to ``update_parameters`` after each step: decay · average + (1 − decay) · weights.

    While few steps are averaged, n of them, the decay is at most (1 + n)/(10 + n), so that the first weights, which
    are random, are soon forgotten (the warm-up of TensorFlow's ExponentialMovingAverage).
    """

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], averaged: Tensor | int) -> None:
        steps = int(averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + steps) / (10 + steps)))

    return AveragedModel(model, multi_avg_fn=update)  # type: ignore[arg-type]
