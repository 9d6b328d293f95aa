"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8×8 pixels with values of 0..16."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vitprune.data.collection import Collection, ImageFile, Layout
from vitprune.data.decode import to_pixels
from vitprune.errors import DataError

FILE = "digits.csv.gz"


def fetch(folder: Path) -> list[str]:
    """Copy the bundled file into ``folder``; returns its name."""
    with resources.as_file(resources.files("sklearn.datasets.data") / FILE) as bundled:
        shutil.copyfile(bundled, folder / FILE)
    return [FILE]


def open_digits(folder: Path, channels: Literal[1, 3]) -> Collection:
    """Digits without splits, one image a row. Raises DataError if the file is not what scikit-learn ships."""
    path = folder / FILE
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); run the download stage again (dvc repro download)") from error
    if rows.ndim != 2 or rows.shape[1] != 65 or rows.min() < 0 or rows[:, :64].max() > 16:
        raise DataError(f"{path}: not scikit-learn's digits; run the download stage again (dvc repro download)")
    values = np.round(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    digits = rows[:, 64].astype(int)

    def read() -> Iterator[tuple[int, np.ndarray | None]]:
        for index, image in enumerate(values):
            yield index, to_pixels(Image.fromarray(image), channels)

    images = tuple(
        ImageFile(name=f"{FILE}/{row:04}", split="train", folder=str(digit), position=row)
        for row, digit in enumerate(digits)
    )
    names = {str(digit): str(digit) for digit in sorted(set(digits))}
    return Collection(layout=Layout(images=images, class_names=names), read=read)
