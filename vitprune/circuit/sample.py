"""The images that a search looks at, and the question that they put.

Legend of dimensions: b images, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit.options import AcdcOptions
from vitprune.core.model.checkpoint import Preprocessing
from vitprune.core.packed import PackedData, Split
from vitprune.errors import CircuitError


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Normalised images ``(b, c, height, width)`` and their labels ``(b,)``.

    ``rivals (b,)`` are the classes with which the logit difference compares the labels; None: the strongest other.
    """

    images: Tensor
    labels: Tensor
    rivals: Tensor | None = None


def training_sample(
    packed: PackedData, preprocessing: Preprocessing, count: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Up to ``count`` normalised training images ``(b, c, height, width)`` drawn by ``seed``, and their labels."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(packed.train))[:count])
    return normalised(packed.train, chosen, preprocessing, device)


def question_sample(
    packed: PackedData,
    preprocessing: Preprocessing,
    options: AcdcOptions,
    device: torch.device,
    chosen: np.ndarray | None = None,
) -> Sample:
    """The training images on which ``options`` want a circuit: a draw from all, from some classes, or those ``chosen``.

    With two classes, each is the rival of the other. Raises CircuitError for classes that the data do not have, or of
    which there are no training images.
    """
    classes = class_indices(options.classes, packed.class_names)
    if chosen is None:
        shown = np.arange(len(packed.train)) if classes is None else of_classes(packed.train, classes)
        if not len(shown):
            raise CircuitError(f"acdc.classes: there are no training images of {options.classes}")
        chosen = np.sort(shown[np.random.default_rng(options.seed).permutation(len(shown))[: options.num_images]])
    images, labels = normalised(packed.train, chosen, preprocessing, device)
    return Sample(images=images, labels=labels, rivals=_rivals(classes, labels))


def validation_sample(
    packed: PackedData, preprocessing: Preprocessing, options: AcdcOptions, device: torch.device, count: int
) -> Sample:
    """The first ``count`` validation images, of the classes that ``options`` name if there are such, else of all."""
    classes = class_indices(options.classes, packed.class_names)
    shown = np.arange(len(packed.val)) if classes is None else of_classes(packed.val, classes)
    shown = shown[:count] if len(shown) else np.arange(min(count, len(packed.val)))
    images, labels = normalised(packed.val, shown, preprocessing, device)
    return Sample(images=images, labels=labels, rivals=_rivals(classes, labels))


def _rivals(classes: tuple[int, ...] | None, labels: Tensor) -> Tensor | None:
    """For two classes the other one of each image."""
    if classes is None or len(classes) != 2:
        return None
    return torch.where(labels == classes[0], classes[1], classes[0])


def class_indices(names: Sequence[str | int] | None, class_names: Sequence[str]) -> tuple[int, ...] | None:
    """The numbers of the classes with these names; CircuitError for a name that is not among ``class_names``."""
    if names is None:
        return None
    for name in names:
        if str(name) not in class_names:
            raise CircuitError(f"acdc.classes: {name!r} is not a class of the data; those are {', '.join(class_names)}")
    return tuple(class_names.index(str(name)) for name in names)


def of_classes(split: Split, classes: Sequence[int]) -> np.ndarray:
    """The indices of a split's images of these classes."""
    return np.flatnonzero(np.isin(split.labels, classes))


def normalised(
    split: Split, indices: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The normalised images ``(b, c, height, width)`` at ``indices``, and their labels ``(b,)``, on ``device``."""
    images = preprocessing(torch.from_numpy(split.images[indices]).to(device))
    return images, torch.from_numpy(split.labels[indices]).to(device)
