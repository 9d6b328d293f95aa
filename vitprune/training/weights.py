"""Which parameters are weight matrices: they alone are decayed, and theirs are the gradients worth watching."""

from __future__ import annotations

import re

from torch import nn

from vitprune.model.vit import ViT


def weight_matrices(model: ViT) -> dict[str, nn.Parameter]:
    """The weight matrices from the images to the logits by short names: ``patches``, ``a0.qkv``, ``m0.out``, …

    Norms, biases, the class token and the positions are none.
    """
    return {
        _short(name.removesuffix(".weight")): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and parameter.ndim >= 2
    }


def _short(module: str) -> str:
    return re.sub(r"^blocks\.(\d+)\.([am])\w+\.", r"\2\1.", module)
