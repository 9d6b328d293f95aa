"""Validation and test images cut from the training images, where the source brings none."""

from __future__ import annotations

import math

import numpy as np


def cut_stratified(
    labels: np.ndarray, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a pool of images with integer ``labels`` ``(n,)`` into train, val and test, class by class.

    Fractions are of the pool. Every class gives its share rounded up or down, so that the total is the pool's share
    rounded; only a class too small to keep one image for training gives less. Returns three sorted index arrays, which
    together hold every index once.
    """
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    before = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Rounding the running total, not each class: 200 classes of 3 images still give 15 % of all.
        val, test = (
            _round(fraction * (before + len(members))) - _round(fraction * before)
            for fraction in (val_fraction, test_fraction)
        )
        before += len(members)
        test = min(test, len(members) - 1)
        val = min(val, len(members) - 1 - test)
        # A generator per class: more images in one class leave the cut of the others alone.
        order = np.random.default_rng([seed, int(label)]).permutation(members)
        for part, chosen in zip(parts, np.split(order, [len(members) - val - test, len(members) - test]), strict=True):
            part.append(chosen)
    train, val_, test_ = (np.sort(np.concatenate([np.empty(0, np.int64), *part])) for part in parts)
    return train, val_, test_


def _round(value: float) -> int:
    # Python rounds halves to even, which would starve every second class of one image.
    return math.floor(value + 0.5)
