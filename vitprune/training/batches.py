"""Images and labels of a split: their check, their place in memory, and batches that follow from seed and epoch.

Legend of dimensions:
    N  images in the split    b  images in the batch    c  channels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitprune.core.model.vit import ViTConfig
from vitprune.core.packed import Split
from vitprune.errors import DataError

RESIDENT_BYTES = 1 << 30
"""Splits of up to this size are copied to the device; of larger ones, each batch is copied when it is needed."""
RESIDENT_SHARE = 0.25
"""On a GPU the limit is this share of its free memory instead."""


def check_split(split: Split, config: ViTConfig, name: str) -> None:
    """Check that a model of this config can be trained or scored on a split, which messages call ``name``.

    Raises DataError if the split is empty, or if its images and labels do not fit the model or each other.
    """
    images, labels = split.images, split.labels
    if not len(images):
        raise DataError(
            f"the {name} split has no images; look at what clean dropped, or raise clean.val_fraction if it is 0"
        )
    expected = (config.in_channels, config.image_size, config.image_size)
    if images.dtype != np.uint8 or images.shape[1:] != expected:
        raise DataError(
            f"the {name} images are {images.dtype} of shape {images.shape[1:]} (channels, height, width), but the "
            f"model takes uint8 of shape {expected}; make data and model agree and run clean and train again"
        )
    if labels.shape != (len(images),):
        raise DataError(
            f"the {name} split has {len(images)} images but labels of shape {labels.shape}; run clean again"
        )
    if labels.min() < 0 or labels.max() >= config.num_classes:
        raise DataError(
            f"the {name} labels run from {labels.min()} to {labels.max()}, but the model knows the classes 0 to "
            f"{config.num_classes - 1}; train the model on the data that it is used with"
        )


@dataclass(frozen=True, kw_only=True)
class PlacedSplit:
    """A split ready for batches.

    The labels ``(N,)`` are on the device. The uint8 images ``(N, c, height, width)`` are there too if they fit;
    otherwise they remain in their array or memory-mapped file.
    """

    images: Tensor | NDArray[np.uint8]
    labels: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images ``(b, c, height, width)`` and labels ``(b,)`` on the device, for CPU ``indices`` ``(b,)``."""
        on_device = indices.to(self.device)
        if isinstance(self.images, Tensor):
            return self.images.index_select(0, on_device), self.labels[on_device]
        images = torch.from_numpy(np.asarray(self.images[indices.numpy()]))
        if self.device.type == "cuda":
            # A copy from pinned memory runs while the GPU computes the previous step.
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True), self.labels[on_device]


def place(split: Split, device: torch.device) -> PlacedSplit:
    """Copy a split to the device if it fits there, otherwise only its labels."""
    budget = float(RESIDENT_BYTES)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget = RESIDENT_SHARE * free
    images: Tensor | NDArray[np.uint8] = split.images
    if split.images.nbytes <= budget:
        images = torch.from_numpy(np.array(split.images)).to(device)
    labels = torch.from_numpy(np.array(split.labels, dtype=np.int64)).to(device)
    return PlacedSplit(images=images, labels=labels, device=device)


def batch_starts(num_images: int, batch_size: int) -> range:
    """Where the batches of an epoch begin.

    The last batch may be short. A last batch of one image is left out, because its gradient is mostly noise, unless it
    is the only one or ``batch_size`` is 1.
    """
    starts = range(0, num_images, batch_size)
    return starts[:-1] if num_images % batch_size == 1 and num_images > batch_size > 1 else starts


def epoch_batches(num_images: int, batch_size: int, *, seed: int) -> list[Tensor]:
    """Indices of each batch of an epoch, ``(b,)`` on the CPU, shuffled by the seed."""
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return [order[start : start + batch_size] for start in batch_starts(num_images, batch_size)]
