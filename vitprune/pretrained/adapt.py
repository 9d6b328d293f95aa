"""Fit a trained ViT to other images and other classes.

Legend of dimensions:
    t  tokens, class token first    c  channels                   p, q  patch height and width
    d  d_model                      y, x  rows and columns of the grid of patches
"""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vitprune.core.model.vit import ViT, ViTConfig
from vitprune.errors import ConfigError

ADAPTABLE = ("image_size", "in_channels", "num_classes", "patch_embedding", "dropout", "drop_path")
"""Fields of a config that may change while the layers keep their weights."""


def adapt(model: ViT, config: ViTConfig, generator: torch.Generator | None = None) -> ViT:
    """A ViT with the shape ``config`` and the layers of ``model``; positions and patch embedding fit the new images.

    The classifier is new, and drawn from ``generator`` as for a new ViT.
    Raises ConfigError, with the values to set, if the configs differ in other fields than ``ADAPTABLE``.
    """
    check_adaptable(model.config, config)
    adapted = ViT(config)
    adapted.initialise(generator)
    fresh = adapted.state_dict()
    weights = model.state_dict()
    weights["classifier.weight"], weights["classifier.bias"] = fresh["classifier.weight"], fresh["classifier.bias"]
    weights["positions"] = resample_positions(weights["positions"], config.image_size // config.patch_size)
    weights["patches.weight"] = _patch_weight(weights["patches.weight"], model.config, config)
    adapted.load_state_dict(weights)
    return adapted


def check_adaptable(pretrained: ViTConfig, wanted: ViTConfig) -> None:
    """Raise ConfigError, with the values to set, if a model of one shape cannot be adapted to the other."""
    differing = [
        field.name
        for field in fields(ViTConfig)
        if field.name not in ADAPTABLE and getattr(pretrained, field.name) != getattr(wanted, field.name)
    ]
    if differing:
        values = ", ".join(
            f"model.{name} to {getattr(pretrained, name)} (not {getattr(wanted, name)})" for name in differing
        )
        raise ConfigError(f"its shape differs; set {values}")
    if wanted.patch_embedding == "shifted":
        raise ConfigError("it has no shifted patches; set model.patch_embedding to linear or conv")
    channels = pretrained.in_channels
    if wanted.in_channels not in (1, channels):
        raise ConfigError(f"it reads {channels} channels; set data.channels to {channels}, not {wanted.in_channels}")


def resample_positions(positions: Tensor, grid: int) -> Tensor:
    """Resample positions ``(t, d)`` to ``grid`` × ``grid`` patches; the class token's position does not change.

    Bicubic with antialiasing, like ``resample_abs_pos_embed`` of timm (timm/layers/pos_embed.py).
    """
    old = math.isqrt(len(positions) - 1)
    if old == grid:
        return positions
    patches = rearrange(positions[1:], "(y x) d -> 1 d y x", y=old)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True)
    return torch.cat([positions[:1], rearrange(patches, "1 d y x -> (y x) d")])


def _patch_weight(weight: Tensor, pretrained: ViTConfig, wanted: ViTConfig) -> Tensor:
    """Convert the weight of the patch embedding, ``(d, c, p, q)`` for conv and ``(d, p q c)`` for linear.

    For grey images it is summed over the channels, because a grey image is an RGB image with three equal channels
    (``adapt_input_conv`` in timm/models/_manipulate.py does the same).
    """
    if pretrained.patch_embedding == "linear":
        weight = rearrange(weight, "d (p q c) -> d c p q", p=pretrained.patch_size, q=pretrained.patch_size)
    if wanted.in_channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    return weight if wanted.patch_embedding == "conv" else rearrange(weight, "d c p q -> d (p q c)")
