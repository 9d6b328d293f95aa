"""The record of each epoch, and CSV files of records."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitprune.storage import atomic_file
from vitprune.training.gradients import LayerGradient


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch, counted from 1.

    ``train_loss`` is the mean of the minimised loss, on augmented images and while the weights changed.
    ``train_accuracy`` is measured on the same images; it is None where mixing left them without one true class.
    ``val_loss`` is the plain cross-entropy in nats. ``learning_rate`` is that of the last step. ``seconds`` and
    ``images_per_second`` cover the training steps without validation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float


HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
    "images_per_second",
)
GRADIENT_COLUMNS = ("epoch", "layer", "mean_abs", "max_abs")


def write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    """Write one row per epoch, atomically. Training accuracy is left out, because not every recipe has one."""
    _write(path, HISTORY_COLUMNS, history)


def write_gradient_flow(path: Path, gradient_flow: Sequence[LayerGradient]) -> None:
    """Write one row per epoch and layer, atomically."""
    _write(path, GRADIENT_COLUMNS, gradient_flow)


def _write(path: Path, columns: Sequence[str], records: Iterable[object]) -> None:
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        # Six digits are enough to plot and compare, and keep diffs short.
        for record in records:
            values = (getattr(record, column) for column in columns)
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
