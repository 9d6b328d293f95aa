"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, grey, 28×28, in four idx files.

Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747. The idx format is that of MNIST: a magic number whose last byte
is the number of dimensions, their lengths (all big-endian), then the bytes.
"""

from __future__ import annotations

import gzip
import logging
import math
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vitprune.data.collection import Collection, ImageFile, Layout
from vitprune.data.decode import to_pixels
from vitprune.data.packed import SplitName
from vitprune.data.sources.cache import cache_folder
from vitprune.errors import DataError, DownloadError

logger = logging.getLogger(__name__)

FILES: dict[SplitName, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
ALL_FILES = tuple(name for pair in FILES.values() for name in pair)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
BY_HAND = (
    "get the four files by hand (Debian and Ubuntu have them in the package dataset-fashion-mnist) and set data.path "
    "to the folder that holds them"
)


def fetch(folder: Path, path: Path | None) -> list[str]:
    """Copy the four files into ``folder``, from ``path`` or else from torchvision's mirrors; returns their names.

    Raises DataError if ``path`` does not hold them, DownloadError if they cannot be downloaded.
    """
    came_from = path if path is not None else _download()
    for name in ALL_FILES:
        if not (came_from / name).is_file():
            raise DataError(f"data.path: {came_from} has no {name}; it must hold {', '.join(ALL_FILES)}")
        shutil.copyfile(came_from / name, folder / name)
    for images, labels in FILES.values():
        _read_idx(folder / images, 3)
        _read_idx(folder / labels, 1)
    return list(ALL_FILES)


def _download() -> Path:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    folder = cache_folder() / "fashion-mnist"
    for name, md5 in FashionMNIST.resources:
        failures = []
        for mirror in FashionMNIST.mirrors:
            try:
                # A file that is there already, with the right checksum, is not fetched again.
                download_url(f"{mirror}{name}", str(folder), filename=name, md5=md5)
                break
            except (OSError, RuntimeError, ValueError) as error:
                failures.append(str(error))
                logger.debug("%s: %s", name, error)
        else:
            raise DownloadError(f"Fashion-MNIST: {name} could not be downloaded ({'; '.join(failures)}); {BY_HAND}")
    return folder


def open_fashion_mnist(folder: Path, channels: Literal[1, 3]) -> Collection:
    """Fashion-MNIST with its train and test splits. Raises DataError if a file is broken or does not fit its pair."""
    pixels: list[np.ndarray] = []
    images: list[ImageFile] = []
    for split, (image_file, label_file) in FILES.items():
        values, labels = _read_idx(folder / image_file, 3), _read_idx(folder / label_file, 1)
        if len(values) != len(labels) or labels.max(initial=0) >= len(CLASSES):
            raise DataError(
                f"{folder / label_file}: {len(labels)} labels up to {labels.max(initial=0)} for {len(values)} images "
                f"of {len(CLASSES)} classes; {BY_HAND}"
            )
        images += [
            ImageFile(name=f"{image_file}/{row:05}", split=split, folder=str(label), position=len(images) + row)
            for row, label in enumerate(labels)
        ]
        pixels.append(values)

    def read() -> Iterator[tuple[int, np.ndarray | None]]:
        index_of = {image.position: index for index, image in enumerate(layout.images)}
        for position, image in enumerate(row for values in pixels for row in values):
            yield index_of[position], to_pixels(Image.fromarray(image), channels)

    names = {str(label): name for label, name in enumerate(CLASSES)}
    layout = Layout(images=tuple(sorted(images, key=lambda image: image.name)), class_names=names)
    return Collection(layout=layout, read=read)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file; DataError if it is broken or has another number of dimensions."""
    try:
        with gzip.open(path) as file:
            content = file.read()
        zero, kind, found = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{found}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path}: not a gzipped idx file ({error}); {BY_HAND}") from error
    start = 4 + 4 * found
    if zero or kind != 8 or found != dimensions or len(content) != start + math.prod(shape):
        raise DataError(
            f"{path}: not an idx file of bytes in {dimensions} dimensions (shape {shape}, {len(content)} bytes); "
            f"{BY_HAND}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
