"""The images that a search looks at.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitprune.core.model.checkpoint import Preprocessing
from vitprune.core.packed import PackedData, Split


def training_sample(
    packed: PackedData, preprocessing: Preprocessing, count: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Up to ``count`` normalised training images ``(b, c, height, width)`` drawn by ``seed``, and their labels."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(packed.train))[:count])
    return normalised(packed.train, chosen, preprocessing, device)


def normalised(
    split: Split, indices: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The normalised images ``(b, c, height, width)`` at ``indices``, and their labels ``(b,)``, on ``device``."""
    images = preprocessing(torch.from_numpy(split.images[indices]).to(device))
    return images, torch.from_numpy(split.labels[indices]).to(device)
