"""What is exported: a model with its normalisation, and how its exported form is compared with it.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitprune.errors import ExportError
from vitprune.model.checkpoint import SavedModel
from vitprune.model.vit import ViTConfig

TOLERANCE = 1e-4
"""By how much of the largest logit an exported model may be off."""
TRIED_BATCHES = (1, 3)


class Packaged(nn.Module):
    """Logits ``(b, classes)`` from float images ``(b, c, height, width)`` with values between 0 and 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, saved: SavedModel) -> None:
        super().__init__()
        self.model = saved.model
        self._is_normalising = any(saved.preprocessing.mean) or any(std != 1 for std in saved.preprocessing.std)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(saved.preprocessing, name))
            self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.std if self._is_normalising else images)


def some_images(config: ViTConfig, count: int) -> Tensor:
    """Noise ``(b, c, height, width)`` between 0 and 1."""
    shape = (count, config.in_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(count))


def largest_difference(packaged: Packaged, exported: Callable[[Tensor], Tensor]) -> float:
    """How far the logits of an exported model are off at most, as a share of the largest.

    Batches of several sizes are tried. Raises ExportError if that is more than rounding.
    """
    worst = 0.0
    for count in TRIED_BATCHES:
        images = some_images(packaged.model.config, count)
        with torch.inference_mode():
            expected = packaged(images)
            difference = (exported(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        # NaN is never small.
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported model answers otherwise: its logits are off by {difference:.2g} of the largest, where "
                f"{TOLERANCE:g} would be rounding; use another format, and report this with the model's config.json"
            )
        worst = max(worst, float(difference))
    return worst
