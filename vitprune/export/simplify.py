"""Exact simplifications of any model, pruned or not: arithmetic that the weights can do beforehand.

The scale and shift of each layer norm go into the linear map that reads it, and the normalisation of the images into
the patch embedding. In real numbers the function stays the same; the model can be run, but no longer be trained or
saved as one of ours.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from einops import einsum, repeat
from torch import Tensor, nn

from vitprune.model.checkpoint import Preprocessing, SavedModel
from vitprune.model.embedding import ConvPatches, LinearPatches, ShiftedPatches


@torch.no_grad()
def simplified(saved: SavedModel) -> SavedModel:
    """A copy of ``saved`` that computes the same with fewer operations.

    A shifted patch embedding keeps the normalisation: the zeros that it moves in are those of normalised images.
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
    """The norm without scale and shift, which ``reader`` gets."""
    _scale_input(reader, norm.weight, norm.bias)
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)


def _scale_input(linear: nn.Linear, scale: Tensor, shift: Tensor) -> None:
    """Make ``linear(x)`` what ``linear(scale · x + shift)`` was."""
    linear.bias.add_(linear.weight @ shift)
    linear.weight.mul_(scale)


def _take_normalisation(patches: LinearPatches | ConvPatches, preprocessing: Preprocessing) -> None:
    mean, std = (patches.weight.new_tensor(values) for values in (preprocessing.mean, preprocessing.std))
    if isinstance(patches, LinearPatches):
        # A patch's values come channel by channel within each pixel.
        mean, std = (repeat(each, "c -> (pixels c)", pixels=patches.patch_size**2) for each in (mean, std))
        _scale_input(patches, 1 / std, -mean / std)
        return
    assert patches.bias is not None
    patches.bias.sub_(einsum(patches.weight, mean / std, "d c p q, c -> d"))
    patches.weight.div_(std[:, None, None])
