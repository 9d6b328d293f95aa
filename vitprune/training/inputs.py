"""The inputs of a training step: augmented, normalised and mixed images, and their targets.

Legend of dimensions:
    b  images in the batch    c  channels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitprune.core.model.checkpoint import Preprocessing
from vitprune.core.packed import Split
from vitprune.training.augment import augment_images, mix
from vitprune.training.batches import PlacedSplit, epoch_batches
from vitprune.training.options import AugmentOptions
from vitprune.training.randomness import Purpose, seed_for


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The batches of a training split, as functions of the seed, the epoch and the position in it."""

    images: PlacedSplit
    preprocessing: Preprocessing
    augment: AugmentOptions
    num_classes: int
    batch_size: int
    seed: int

    def order(self, epoch: int) -> list[Tensor]:
        """Indices of each batch of an epoch, ``(b,)``."""
        return epoch_batches(len(self.images), self.batch_size, seed=seed_for(self.seed, Purpose.ORDER, epoch))

    def batch(self, indices: Tensor, epoch: int, k: int) -> tuple[Tensor, Tensor]:
        """Images ``(b, c, height, width)`` of batch k, and targets ``(b,)`` or ``(b, num_classes)``."""
        pixels, labels = self.images.batch(indices)
        images = augment_images(
            pixels.float().div_(255), self.augment, seed=seed_for(self.seed, Purpose.IMAGES, epoch, k)
        )
        return mix(
            self.preprocessing.normalise(images),
            labels,
            self.augment,
            num_classes=self.num_classes,
            seed=seed_for(self.seed, Purpose.MIXING, epoch, k),
        )


def first_batch(
    split: Split, preprocessing: Preprocessing, augment: AugmentOptions, *, num_classes: int, batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The first batch that training on the CPU sees: images ``(b, c, height, width)`` and targets ``(b, num_classes)``.

    The normalisation is undone and targets are probabilities, for drawing.
    """
    labels = torch.from_numpy(split.labels.astype("int64"))
    inputs = Inputs(
        images=PlacedSplit(images=split.images, labels=labels, device=torch.device("cpu")),
        preprocessing=preprocessing,
        augment=augment,
        num_classes=num_classes,
        batch_size=batch_size,
        seed=seed,
    )
    images, targets = inputs.batch(inputs.order(1)[0], 1, 0)
    if targets.ndim == 1:
        targets = torch.nn.functional.one_hot(targets, num_classes).float()
    return preprocessing.restore(images), targets
