"""From decoded images to packed data: a spool on disk until all images are judged, then one array for each split.

Legend of dimensions: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vitprune.core.packed import (
    DATASET_FILE,
    FORMAT_VERSION,
    FULL_DEPTH,
    SPLITS,
    Dataset,
    SplitName,
    images_file,
    labels_file,
)
from vitprune.storage import write_json

BLOCK_BYTES = 1 << 25
STD_FLOOR = 1 / 255
"""One grey level: lets a channel that never changes be divided by its standard deviation."""


class Spool:
    """Images of one shape ``(C, H, W)``, uint8, written and read by index.

    It is a file and not a memory map, whose pages would count as memory of this process.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]) -> None:
        self._file = file
        self._shape = shape
        self._bytes = int(np.prod(shape))

    def write(self, index: int, image: np.ndarray) -> None:
        assert (image.dtype, image.shape) == (np.uint8, self._shape), (image.dtype, image.shape)
        offset = index * self._bytes
        if self._file.tell() != offset:
            self._file.seek(offset)
        self._file.write(image.data)

    def blocks(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images at ``indices``, in that order, in blocks ``(any, C, H, W)`` of bounded size."""
        per_block = max(1, BLOCK_BYTES // self._bytes)
        for start in range(0, len(indices), per_block):
            block = np.empty((len(indices[start : start + per_block]), *self._shape), np.uint8)
            for row, index in zip(block, indices[start : start + per_block], strict=True):
                self._file.seek(int(index) * self._bytes)
                row[:] = np.frombuffer(self._file.read(self._bytes), np.uint8).reshape(self._shape)
            yield block


@contextmanager
def open_spool(path: Path, shape: tuple[int, int, int]) -> Iterator[Spool]:
    """A spool in the file ``path``, which is deleted at the end."""
    try:
        with path.open("w+b") as file:
            yield Spool(file, shape)
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class SplitContent:
    """A split to write: its images in blocks ``(any, C, H, W)``, which need not fit into memory together."""

    blocks: Iterable[NDArray[np.uint8]]
    labels: NDArray[np.int64]


def write_packed(
    folder: Path,
    splits: Mapping[SplitName, SplitContent],
    *,
    class_names: Iterable[str],
    class_folders: Iterable[str],
    image_size: int,
    channels: int,
    bit_depth: int = FULL_DEPTH,
    made_with: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write packed data, with mean and standard deviation over the training images, into an existing folder.

    The caller makes the folder appear whole or not at all (``storage.atomic_folder``).
    """
    histograms = np.zeros((channels, 256), np.int64)
    for split in SPLITS:
        content = splits[split]
        shape = (len(content.labels), channels, image_size, image_size)
        with (folder / images_file(split)).open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in content.blocks:
                assert (block.dtype, block.shape[1:]) == (np.uint8, shape[1:]), (block.dtype, block.shape)
                file.write(np.ascontiguousarray(block).data)
                if split == "train":
                    histograms += _histograms(block)
        np.save(folder / labels_file(split), content.labels.astype(np.int64), allow_pickle=False)
    mean, std = _moments(histograms)
    dataset = Dataset(
        format_version=FORMAT_VERSION,
        class_names=tuple(class_names),
        class_folders=tuple(class_folders),
        image_size=image_size,
        channels=channels,
        images={split: len(splits[split].labels) for split in SPLITS},
        mean=mean,
        std=std,
        bit_depth=bit_depth,
        made_with=dict(made_with),
    )
    write_json(folder / DATASET_FILE, dataset.model_dump(mode="json"))


def _histograms(block: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count each of the 256 values per channel, ``(C, 256)``. Counts add up exactly over any number of images."""
    return np.stack([np.bincount(block[:, channel].ravel(), minlength=256) for channel in range(block.shape[1])])


def _moments(histograms: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, for pixels from 0 to 1."""
    values = np.arange(256) / 255
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return tuple(map(float, mean)), tuple(float(max(std, STD_FLOOR)) for std in np.sqrt(variance))
