"""Ways to turn each patch of an image into a token.

Legend of dimensions:
    b  images in the batch    c  channels    p, q  patch height and width    y, x  row and column of a patch
    d  width of the residual stream

Each takes normalised images ``(b, c, height, width)`` and gives ``(b, y x, d)``, patches row by row.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

PatchEmbedding = Literal["linear", "conv", "shifted"]

SHIFTED_COPIES = 5
"""What a shifted embedding reads: the image and four copies of it."""


class LinearPatches(nn.Linear):
    """A linear map of a patch's values."""

    def __init__(self, channels: int, patch_size: int, d_model: int) -> None:
        super().__init__(channels * patch_size**2, d_model)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(_flatten(images, self.patch_size))


class ConvPatches(nn.Conv2d):
    """The same map as a convolution whose stride is its kernel's size."""

    def __init__(self, channels: int, patch_size: int, d_model: int) -> None:
        super().__init__(channels, d_model, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return rearrange(super().forward(images), "b d y x -> b (y x) d")


class ShiftedPatches(nn.Module):
    """Shifted patch tokenisation (Lee et al. 2021, arXiv 2112.13492): a token also knows what surrounds its patch.

    The image and four copies of it, each shifted by half a patch along a diagonal with zeros moving in, are stacked as
    channels; of these, patches are normed and mapped.
    """

    def __init__(self, channels: int, patch_size: int, d_model: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        values = SHIFTED_COPIES * channels * patch_size**2
        self.norm = nn.LayerNorm(values)
        self.linear = nn.Linear(values, d_model)

    def forward(self, images: Tensor) -> Tensor:
        shift, (height, width) = self.patch_size // 2, images.shape[-2:]
        padded = F.pad(images, (shift, shift, shift, shift))
        corners = [(top, left) for top in (0, 2 * shift) for left in (0, 2 * shift)]
        copies = [padded[..., top : top + height, left : left + width] for top, left in corners]
        return self.linear(self.norm(_flatten(torch.cat([images, *copies], dim=1), self.patch_size)))


EMBEDDINGS = {"linear": LinearPatches, "conv": ConvPatches, "shifted": ShiftedPatches}


def _flatten(images: Tensor, size: int) -> Tensor:
    return rearrange(images, "b c (y p) (x q) -> b (y x) (p q c)", p=size, q=size)
