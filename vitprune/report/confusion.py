"""Which classes a model mistakes for which: the confusion matrix, its plot, and its commonest mistakes as CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor

from vitprune.report.drawing import drawn, shortened
from vitprune.storage import atomic_file

NAME_LENGTH = 24
MAX_NAMED_CLASSES = 40
"""With more classes, their names would run into each other and are left out."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """``count`` images of class ``actual`` were predicted as ``predicted``, which is ``share`` of that class."""

    actual: str
    predicted: str
    count: int
    share: float


def confusion_matrix(logits: Tensor, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of images of each true class (row) that were predicted as each class (column), ``(classes, classes)``.

    ``logits`` are ``(images, classes)``, ``labels`` are ``(images,)``.
    """
    predicted = logits.argmax(dim=1).cpu().numpy()
    return metrics.confusion_matrix(labels, predicted, labels=range(logits.shape[1]))


def most_confused(matrix: NDArray[np.int64], class_names: tuple[str, ...], limit: int = 20) -> list[Confusion]:
    """The commonest mistakes, most images first; ties in the order of the classes."""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    return [
        Confusion(
            actual=class_names[actual],
            predicted=class_names[predicted],
            count=int(mistakes[actual, predicted]),
            share=int(mistakes[actual, predicted]) / int(matrix[actual].sum()),
        )
        for actual, predicted in zip(*np.unravel_index(order, mistakes.shape), strict=True)
        if mistakes[actual, predicted]
    ]


def draw_confusion(path: Path, matrix: NDArray[np.int64], class_names: tuple[str, ...]) -> None:
    """Draw a confusion matrix ``(true classes, predicted classes)`` as a PNG: shares of each true class."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    classes = len(class_names)
    size = min(3.5 + 0.35 * classes, 12.0)
    with drawn(path, (size + 1, size)) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
        if classes <= MAX_NAMED_CLASSES:
            names = [shortened(name, NAME_LENGTH) for name in class_names]
            axes.set_xticks(range(classes), names, rotation=90)
            axes.set_yticks(range(classes), names)
        if classes <= MAX_NAMED_CLASSES // 2:
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
        right = int(matrix.trace())
        axes.set(
            xlabel="predicted class",
            ylabel="true class",
            title=f"Fine-tuned, pruned model: {right:,} of {int(matrix.sum()):,} test images are on the diagonal, "
            "where they are right",
        )
        axes.title.set_fontsize(10)


def write_confusion(path: Path, pairs: list[Confusion]) -> None:
    """Write the commonest mistakes as CSV, one row each, most images first."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in fields(Confusion)])
        for pair in pairs:
            writer.writerow([pair.actual, pair.predicted, pair.count, f"{pair.share:.4f}"])
