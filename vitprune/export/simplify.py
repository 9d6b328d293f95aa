"""Exact simplifications of a model, pruned or not: arithmetic that can be done once, in the weights.

The scale and shift of each layer norm move into the linear map that reads it, and the normalisation of the images
moves into the patch embedding. The function stays the same but for rounding. The result can be run, but no longer be
trained or saved as a model of ours.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from einops import einsum, repeat
from torch import Tensor, nn

from vitprune.core.model.checkpoint import Preprocessing, SavedModel
from vitprune.core.model.embedding import ConvPatches, LinearPatches, ShiftedPatches


@torch.no_grad()
def simplified(saved: SavedModel) -> SavedModel:
    """A copy of ``saved`` that computes the same with fewer operations.

    With a shifted patch embedding the normalisation stays: the zeros that it shifts in are zeros of normalised images.
    """
    model = copy.deepcopy(saved.model)
    for block in model.blocks:
        if block.attention is not None:
            block.attention.norm = _plain(block.attention.norm, block.attention.qkv)
        if block.mlp is not None:
            block.mlp.norm = _plain(block.mlp.norm, block.mlp.hidden)
    model.norm = _plain(model.norm, model.classifier)
    if isinstance(model.patches, ShiftedPatches):
        model.patches.norm = _plain(model.patches.norm, model.patches.linear)
        return replace(saved, model=model)
    assert isinstance(model.patches, LinearPatches | ConvPatches)
    _take_normalisation(model.patches, saved.preprocessing)
    channels = model.config.in_channels
    return replace(saved, model=model, preprocessing=Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels))


def _plain(norm: nn.LayerNorm, reader: nn.Linear) -> nn.LayerNorm:
    """The norm without scale and shift, which move into ``reader``."""
    _scale_input(reader, norm.weight, norm.bias)
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)


def _scale_input(linear: nn.Linear, scale: Tensor, shift: Tensor) -> None:
    """Make ``linear(x)`` compute what ``linear(scale · x + shift)`` computed before."""
    linear.bias.add_(linear.weight @ shift)
    linear.weight.mul_(scale)


def _take_normalisation(patches: LinearPatches | ConvPatches, preprocessing: Preprocessing) -> None:
    mean, std = (patches.weight.new_tensor(values) for values in (preprocessing.mean, preprocessing.std))
    if isinstance(patches, LinearPatches):
        # Within a patch, the channels of each pixel stand together.
        mean, std = (repeat(values, "c -> (pixels c)", pixels=patches.patch_size**2) for values in (mean, std))
        _scale_input(patches, 1 / std, -mean / std)
        return
    assert patches.bias is not None
    patches.bias.sub_(einsum(patches.weight, mean / std, "d c p q, c -> d"))
    patches.weight.div_(std[:, None, None])
