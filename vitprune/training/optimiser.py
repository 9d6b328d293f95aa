"""What changes the weights: the optimisers, the learning rate of each step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from vitprune.core.model.vit import ViT
from vitprune.training.muon import Muon
from vitprune.training.weights import weight_matrices

OptimiserName = Literal["adamw", "muon"]


def parameter_groups(model: ViT, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters in two groups: weight matrices with decay; biases, norms, class token and positions without."""
    decayed = list(weight_matrices(model).values())
    return _groups(decayed, list(model.parameters()), weight_decay)


def make_optimisers(
    model: ViT, name: OptimiserName, *, learning_rate: float, weight_decay: float
) -> tuple[Optimizer, ...]:
    """The optimisers of a model; each parameter belongs to one of them.

    ``adamw`` (Loshchilov & Hutter 2019, arXiv 1711.05101) trains all parameters, in the groups of
    ``parameter_groups``. ``muon`` (Jordan et al. 2024, kellerjordan.github.io/posts/muon) orthogonalises the momentum
    of a weight matrix. It trains the matrices inside the layers, and AdamW the embedding, the classifier and everything
    that is not a matrix. Muon's steps are scaled to the size of AdamW's, so one learning rate suits both.
    """
    if name == "adamw":
        return (_adamw(model, parameter_groups(model, weight_decay), learning_rate),)
    matrices = weight_matrices(model)
    in_layers = {id(parameter) for block in model.blocks for parameter in block.parameters()}
    inner = [matrix for matrix in matrices.values() if id(matrix) in in_layers]
    inner_ids = {id(matrix) for matrix in inner}
    decayed = [matrix for matrix in matrices.values() if id(matrix) not in inner_ids]
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inner_ids]
    adamw = _adamw(model, _groups(decayed, rest, weight_decay), learning_rate)
    # Pruning may leave no layers at all.
    if not inner:
        return (adamw,)
    return Muon(inner, lr=learning_rate, weight_decay=weight_decay), adamw


def allocate_memory(model: ViT, optimisers: Sequence[Optimizer]) -> None:
    """Give the optimisers their memory of all trained parameters before the first step, as zeros.

    They would make it in the first step. A saved state can then be compared with that of a fresh run, and be copied
    into it. A step of length zero along gradients of zero changes nothing else.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    for optimiser in optimisers:
        rates = [group["lr"] for group in optimiser.param_groups]
        for group in optimiser.param_groups:
            group["lr"] = 0.0
        optimiser.step()
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
    for tensor in memory_of(optimisers).values():
        tensor.zero_()
    for parameter in trained:
        parameter.grad = None


def memory_of(optimisers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The tensors that the optimisers remember from step to step, by optimiser, number of the parameter and name."""
    return {
        f"{index}.{number}.{name}": tensor
        for index, optimiser in enumerate(optimisers)
        for number, memory in optimiser.state_dict()["state"].items()
        for name, tensor in memory.items()
    }


def _groups(decayed: list[nn.Parameter], parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    ids = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in parameters if id(parameter) not in ids]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _adamw(model: ViT, groups: list[dict[str, Any]], learning_rate: float) -> AdamW:
    # One fused call for all parameters: for a small model, separate calls take a good part of a step.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return AdamW(groups, lr=learning_rate, fused=fused)


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Learning rate as a function of the step: a linear warm-up, then half a cosine down to almost zero.

    With warm-up W and length T in steps (W need not be whole), step t (from 0) has the factor min((t + 1)/W, 1) while
    t < W, and then (1 + cos(π·(t − W)/(T − W)))/2: the cosine annealing without restarts of Loshchilov & Hutter 2017,
    arXiv 1608.03983. The rate is above zero in every step.
    """

    peak: float
    warmup_steps: float
    total_steps: int

    def __post_init__(self) -> None:
        # TrainOptions refuses a warm-up that does not end.
        assert 0 <= self.warmup_steps < self.total_steps

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * min((step + 1) / self.warmup_steps, 1.0)
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.peak * (1 + math.cos(math.pi * progress)) / 2


def average_of(model: ViT, decay: float) -> AveragedModel:
    """A moving average of the weights; ``update_parameters`` takes decay · average + (1 − decay) · weights.

    After n updates the decay is at most (1 + n)/(10 + n), so that the random first weights are soon forgotten (as
    num_updates does in TensorFlow's ExponentialMovingAverage).
    """

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor | int) -> None:
        updates = int(num_averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + updates) / (10 + updates)))

    return AveragedModel(model, multi_avg_fn=update)  # type: ignore[arg-type]
