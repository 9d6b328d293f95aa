"""Decoded images on disk while it is not yet known which of them stay, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

BLOCK_BYTES = 1 << 25


class Spool:
    """Images of one shape ``(channels, height, width)``, uint8, written and read by index.

    A file and not a memory map, whose pages would count as this process's memory.
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
        """The images at ``indices``, in that order, in blocks ``(any, channels, height, width)`` of bounded size."""
        per_block = max(1, BLOCK_BYTES // self._bytes)
        for start in range(0, len(indices), per_block):
            block = np.empty((len(indices[start : start + per_block]), *self._shape), np.uint8)
            for row, index in zip(block, indices[start : start + per_block], strict=True):
                self._file.seek(int(index) * self._bytes)
                row[:] = np.frombuffer(self._file.read(self._bytes), np.uint8).reshape(self._shape)
            yield block


@contextmanager
def open_spool(path: Path, shape: tuple[int, int, int]) -> Iterator[Spool]:
    """A spool at ``path``, which is removed in the end."""
    try:
        with path.open("w+b") as file:
            yield Spool(file, shape)
    finally:
        path.unlink(missing_ok=True)
