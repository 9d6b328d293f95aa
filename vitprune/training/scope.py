"""Fine-tuning of a part of a pruned model: the sublayers that lost something, and what reads them last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from vitprune.model.vit import ViT


@contextmanager
def only_cut_parts(model: ViT) -> Iterator[None]:
    """While this is open, only the parts of a compact model nearest the cuts are trained.

    They are the sublayers that lost heads or neurons, the other sublayer of a layer where one is gone as a whole, and
    the last norm and the classifier.
    """
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for part in (*_cut_parts(model), model.norm, model.classifier):
        part.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _cut_parts(model: ViT) -> Iterator[nn.Module]:
    config = model.config
    for block, heads, neurons in zip(model.blocks, config.layer_heads, config.layer_neurons, strict=True):
        one_is_gone = not heads or not neurons
        if block.attention is not None and (heads < config.num_heads or one_is_gone):
            yield block.attention
        if block.mlp is not None and (neurons < config.d_mlp or one_is_gone):
            yield block.mlp
