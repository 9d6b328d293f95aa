"""The weights of a model: which are matrices, and a digest of all.

Matrices alone are decayed, and theirs are the gradients worth watching.
"""

from __future__ import annotations

import hashlib
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


def weights_digest(model: nn.Module) -> str:
    """The same for the same weights, bit by bit, and for no others."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
