"""A model's predictions on many images: the one way from stored uint8 images to logits.

Legend of dimensions:
    N  images    c  channels
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitprune.core.compute.distributed import gathered, world
from vitprune.core.model.checkpoint import Preprocessing

BATCH_SIZE = 256
"""Images at once by default; the predictions do not depend on it."""


class ImageIndexed(nn.Module):
    """A model whose logits depend on the position of an image among all images, not only on the image.

    Its ``forward(images, first)`` takes the index of the first image, which ``predict`` knows on every rank.
    """


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch off dropout and stochastic depth; afterwards every submodule is in its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict(
    model: nn.Module,
    images: NDArray[np.uint8] | Tensor,
    preprocessing: Preprocessing,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Logits ``(N, num_classes)``, float32 and on ``device``, of uint8 images ``(N, c, height, width)``.

    The model is on ``device`` already; it runs in evaluation mode and is left in the mode it was in. The images may lie
    anywhere, also in a memory-mapped file: they travel batch by batch. Of several ranks each takes its share of the
    images and returns all logits.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    share = world().share_of(len(images))
    logits = []
    with evaluation_mode(model), torch.inference_mode():
        # An empty set of images still goes through once: the result has the right number of columns.
        for first in range(share.start, max(share.stop, share.start + 1), batch_size):
            batch = preprocessing(_as_tensor(images[first : min(first + batch_size, share.stop)]).to(device))
            predicted = model(batch, first) if isinstance(model, ImageIndexed) else model(batch)
            logits.append(predicted.float())
        return gathered(torch.cat(logits), len(images))


def _as_tensor(images: NDArray[np.uint8] | Tensor) -> Tensor:
    # A copy, because PyTorch warns about arrays that it may not write to, and packed files are opened read-only.
    return images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
