"""The most probable classes of image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from vitprune.core.model.checkpoint import SavedModel
from vitprune.core.model.predict import BATCH_SIZE, predict
from vitprune.data.cleaning.images import read_image
from vitprune.data.raw.tree import shown
from vitprune.errors import DataError
from vitprune.evaluation.table import Table
from vitprune.options import Resize


@dataclass(frozen=True)
class Prediction:
    """One of the most probable classes of an image file; rank 1 is the most probable."""

    path: str
    rank: int
    class_name: str
    probability: float


def predict_files(
    saved: SavedModel,
    paths: Sequence[Path],
    *,
    top: int,
    resize: Resize,
    device: torch.device,
    on_failure: Callable[[DataError], None],
) -> list[Prediction]:
    """The ``top`` classes of every image file, most probable first. Files are read batch by batch.

    ``on_failure`` is called for each file that cannot be read as an image, which is then left out.
    """
    config = saved.model.config
    channels = cast(Literal[1, 3], config.in_channels)
    predictions = []
    for start in range(0, len(paths), BATCH_SIZE):
        files, squares = [], []
        for file in paths[start : start + BATCH_SIZE]:
            try:
                squares.append(read_image(file, config.image_size, channels, resize, bit_depth=saved.bit_depth))
                files.append(file)
            except DataError as error:
                on_failure(error)
        if not files:
            continue
        pixels = np.stack(squares)
        probabilities = predict(saved.model, pixels, saved.preprocessing, device=device).softmax(dim=1).cpu()
        best = probabilities.topk(min(top, len(saved.class_names)), dim=1)
        for file, values, classes in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
            predictions += [
                Prediction(shown(file), rank, saved.class_names[index], value)
                for rank, (value, index) in enumerate(zip(values, classes, strict=True), 1)
            ]
    return predictions


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """A row for each image, with its classes and their probabilities."""
    rows = []
    for path, group in groupby(predictions, key=lambda prediction: prediction.path):
        cells = [f"{prediction.class_name} {100 * prediction.probability:.1f} %" for prediction in group]
        rows.append((path, ", ".join(cells)))
    return Table(headers=("image", "most probable"), rows=tuple(rows), caption="")
