"""Image files that somebody wants an answer for, as a model takes them.

Legend of dimensions: c channels, s image_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vitprune.data.decode import EXTENSIONS, decode, to_square
from vitprune.errors import DataError


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and of folders all image files in them at any depth, by name.

    Raises DataError for a path that does not exist, and if there is no image file at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    if not found:
        raise DataError(
            f"no image files in {', '.join(map(str, paths))} (of the kinds {', '.join(sorted(EXTENSIONS))})"
        )
    return found


def read_picture(
    path: Path, image_size: int, channels: Literal[1, 3], resize: Literal["crop", "stretch"]
) -> np.ndarray:
    """Pixels ``(c, s, s)``, uint8, made as the clean command makes them. Raises DataError if it is no image."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    pixels = decode(content, channels)
    if pixels is None:
        raise DataError(f"{path}: not an image that can be decoded; leave it out")
    return to_square(pixels, image_size, resize)
