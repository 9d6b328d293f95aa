"""The weights of a model: which are matrices, which fine-tuning may change, and a digest of all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from vitprune.core.model.vit import ViT


def weight_matrices(model: ViT) -> dict[str, nn.Parameter]:
    """The weight matrices from the images to the logits by short names: ``patches``, ``a0.qkv``, ``m0.out``, …

    Norms, biases, the class token and the positions are not among them. Only matrices are decayed, and gradient flow is
    measured on them.
    """
    return {
        _short(name.removesuffix(".weight")): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and parameter.ndim >= 2
    }


def _short(module: str) -> str:
    return re.sub(r"^blocks\.(\d+)\.([am])\w+\.", r"\2\1.", module)


def weights_digest(model: nn.Module) -> str:
    """A digest that two models share only if all their weights and buffers are equal bit by bit."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def only_cut_sublayers(model: ViT) -> Iterator[None]:
    """Within this context, only the weights of a compact model that are nearest to the cuts are trained.

    These are the sublayers that lost heads or neurons, the other sublayer of a layer in which one is missing, the last
    norm and the classifier.
    """
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for module in (*_cut_sublayers(model), model.norm, model.classifier):
        module.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _cut_sublayers(model: ViT) -> Iterator[nn.Module]:
    config = model.config
    for block, heads, neurons in zip(model.blocks, config.layer_heads, config.layer_neurons, strict=True):
        one_is_missing = not heads or not neurons
        if block.attention is not None and (heads < config.num_heads or one_is_missing):
            yield block.attention
        if block.mlp is not None and (neurons < config.d_mlp or one_is_missing):
            yield block.mlp
