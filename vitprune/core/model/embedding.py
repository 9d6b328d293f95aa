"""What the stream starts as: a token for each patch of an image, and fixed embeddings of its position.

Legend of dimensions:
    b  images in the batch    c  channels    p, q  patch height and width    y, x  row and column of a patch
    d  width of the residual stream

A patch embedding maps normalised images ``(b, c, height, width)`` to tokens ``(b, y x, d)``, patches row by row.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

PatchEmbedding = Literal["linear", "conv", "shifted"]

SHIFTED_COPIES = 5
"""How many images a shifted embedding reads: the image itself and four shifted copies."""

WAVELENGTH_BASE = 10_000
"""Base of the geometric series of wavelengths of fixed positions (Vaswani et al. 2017, arXiv 1706.03762)."""


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
    """Shifted patch tokenisation (Lee et al. 2021, arXiv 2112.13492): a token also reads what surrounds its patch.

    Four copies of the image are shifted by half a patch along a diagonal, filled up with zeros, and stacked on the
    image as channels. The patches of this stack are normalised and mapped.
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


def sincos_positions(side: int, d_model: int) -> Tensor:
    """Sines and cosines of column and row ``(side², d_model)`` of ``side`` × ``side`` patches, row by row.

    Each of the four takes a quarter of the width, at falling frequencies, as in masked autoencoders (He et al. 2022,
    arXiv 2111.06377). ``d_model`` is divisible by 4.
    """
    quarter = d_model // 4
    # In double precision, so that every machine gets the same numbers.
    frequencies = WAVELENGTH_BASE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side)[:, None] * frequencies
    column = repeat(angles, "x w -> (y x) w", y=side)
    row = repeat(angles, "y w -> (y x) w", x=side)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()
