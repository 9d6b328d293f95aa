"""Fixed position embeddings of patches."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

BASE = 10_000
"""Of the geometric series of wavelengths (Vaswani et al. 2017, arXiv 1706.03762)."""


def sincos_positions(side: int, d_model: int) -> Tensor:
    """Sines and cosines of column and row ``(side², d_model)`` of ``side`` × ``side`` patches, row by row.

    A quarter of the width each for sines and cosines of the column and of the row, at falling frequencies, as masked
    autoencoders have it (He et al. 2022, arXiv 2111.06377). ``d_model`` is divisible by 4.
    """
    quarter = d_model // 4
    # In double precision, so that every machine gets the same numbers.
    frequencies = BASE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side)[:, None] * frequencies
    column = repeat(angles, "x w -> (y x) w", y=side)
    row = repeat(angles, "y w -> (y x) w", x=side)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()
