"""What moves the weights: AdamW for all of them, or Muon for the matrices of the layers and AdamW for the rest.

Weight matrices are decayed and nothing else is.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from vitprune.model.vit import ViT
from vitprune.training.weights import weight_matrices

OptimiserName = Literal["adamw", "muon"]


def parameter_groups(model: ViT, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters in two groups: weight matrices with decay; biases, norms, class token and positions without."""
    decayed = list(weight_matrices(model).values())
    return _groups(decayed, list(model.parameters()), weight_decay)


def make_optimisers(
    model: ViT, name: OptimiserName, *, learning_rate: float, weight_decay: float
) -> tuple[Optimizer, ...]:
    """The optimisers that share the model's parameters between them, and take their steps together.

    AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) has all, as ``parameter_groups``. Muon (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon) orthogonalises the momentum of a weight matrix; it has those between stream and
    stream, and its steps are as long as AdamW's, so that both go by one learning rate (Liu et al. 2025, arXiv
    2502.16982). Embedding, classifier and all that is no matrix stay with AdamW.
    """
    if name == "adamw":
        return (_adamw(model, parameter_groups(model, weight_decay), learning_rate),)
    matrices = weight_matrices(model)
    of_layers = {id(parameter) for block in model.blocks for parameter in block.parameters()}
    inner = [matrix for matrix in matrices.values() if id(matrix) in of_layers]
    inner_ids = {id(matrix) for matrix in inner}
    decayed = [matrix for matrix in matrices.values() if id(matrix) not in inner_ids]
    rest = [parameter for parameter in model.parameters() if id(parameter) not in inner_ids]
    others = _adamw(model, _groups(decayed, rest, weight_decay), learning_rate)
    # A model pruned to the bone has no layers.
    if not inner:
        return (others,)
    return Muon(inner, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"), others


def _groups(decayed: list[nn.Parameter], parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    ids = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in parameters if id(parameter) not in ids]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _adamw(model: ViT, groups: list[dict[str, Any]], learning_rate: float) -> AdamW:
    # Fused: one call for all parameters, which for a small model is a good part of a step.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return AdamW(groups, lr=learning_rate, fused=fused)
