"""Which classes a model takes for which.

Legend of dimensions: N images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def confusion_matrix(logits: Tensor, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of images of each true class (row) that were taken for each class (column), ``(classes, classes)``."""
    classes = logits.shape[1]
    places = np.asarray(labels) * classes + logits.argmax(dim=1).cpu().numpy()
    return np.bincount(places, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """``count`` images of class ``actual`` were taken for ``predicted``, which is ``share`` of that class."""

    actual: str
    predicted: str
    count: int
    share: float


def most_confused(matrix: NDArray[np.int64], class_names: tuple[str, ...], limit: int = 20) -> list[Confusion]:
    """The commonest mistakes, most images first; ties by class order."""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    pairs = []
    for actual, predicted in zip(*np.unravel_index(order, mistakes.shape), strict=True):
        count = int(mistakes[actual, predicted])
        if count:
            share = count / int(matrix[actual].sum())
            pairs.append(
                Confusion(actual=class_names[actual], predicted=class_names[predicted], count=count, share=share)
            )
    return pairs
