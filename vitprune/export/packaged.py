"""A model together with its normalisation, which is what is exported; and its export as a PyTorch program.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from vitprune.core.model.checkpoint import SavedModel
from vitprune.core.model.vit import ViTConfig
from vitprune.errors import ExportError
from vitprune.export.simplify import simplified
from vitprune.storage import atomic_file

TOLERANCE = 1e-4
"""Largest error of an exported model's logits, as a share of the largest logit."""
TESTED_BATCHES = (1, 3)


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


def example_images(config: ViTConfig, count: int) -> Tensor:
    """Noise ``(b, c, height, width)`` between 0 and 1."""
    shape = (count, config.in_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(count))


def largest_difference(packaged: Packaged, exported: Callable[[Tensor], Tensor]) -> float:
    """The largest error of an exported model's logits, as a share of the largest logit.

    Batches of several sizes are tested. Raises ExportError if the error is more than rounding.
    """
    worst = 0.0
    for count in TESTED_BATCHES:
        images = example_images(packaged.model.config, count)
        with torch.inference_mode():
            expected = packaged(images)
            difference = (exported(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        # This way round, NaN is refused.
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported model differs from the original: its logits are off by {difference:.2g} of the largest, "
                f"where {TOLERANCE:g} would be rounding; use another format, and report this with the model's "
                "config.json"
            )
        worst = max(worst, float(difference))
    return worst


def export_program(saved: SavedModel, path: Path, *, simplify: bool = True) -> float:
    """Write the model for ``torch.export.load``, which runs without this package.

    It takes images as ``Packaged`` does, in batches of any size. Returns its largest difference from the original.
    Raises ExportError if that is more than rounding.
    """
    packaged = Packaged(simplified(saved) if simplify else saved).cpu().eval()
    original = Packaged(saved).cpu().eval()
    program = torch.export.export(
        packaged,
        (example_images(saved.model.config, 2),),
        dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
    )
    with atomic_file(path) as partial:
        # Through a handle, because the library derives the format from the ending of a path.
        with partial.open("wb") as file:
            torch.export.save(program, file)
        with partial.open("rb") as file:
            return largest_difference(original, torch.export.load(file).module())
