"""AdamW that decays weight matrices and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from vitprune.model.vit import ViT
from vitprune.training.weights import weight_matrices


def parameter_groups(model: ViT, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters in two groups: weight matrices with decay; biases, norms, class token and positions without."""
    decayed = list(weight_matrices(model).values())
    ids = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def make_optimiser(model: ViT, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over the model's ``parameter_groups``."""
    # Fused: one call for all parameters, which for a small model is a good part of a step.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate, fused=fused)
