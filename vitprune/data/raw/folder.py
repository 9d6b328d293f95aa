"""The raw folder, which the download stage writes and the clean stage reads.

It holds the files of a source as they came, and ``source.json``, which lists them.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vitprune.data.options import DataOptions
from vitprune.errors import DataError

FORMAT_VERSION = 1
SOURCE_FILE = "source.json"

DIGITS_FILE = "digits.csv.gz"
FASHION_MNIST_FILES: dict[Literal["train", "test"], tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
"""Images and labels of each split."""
FASHION_MNIST_BY_HAND = (
    "get the four files by hand (Debian and Ubuntu have them in the package dataset-fashion-mnist) and set data.path "
    "to the folder that holds them"
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RawFile(_Strict):
    """One file of a raw folder."""

    name: str
    bytes: int
    sha256: str


class RawSource(_Strict):
    """``source.json``. ``kaggle_handle`` is null unless the archive was fetched from Kaggle."""

    format_version: int
    source: str
    kaggle_handle: str | None
    files: list[RawFile] = Field(min_length=1)


def kaggle_handle(data: DataOptions) -> str | None:
    """The Kaggle data set that these options fetch; None for other sources and for an archive fetched by hand."""
    return data.kaggle_handle if data.source == "kaggle" and data.path is None else None


def read_idx(path: Path, content: Literal["images", "labels"]) -> np.ndarray:
    """Read a gzipped idx file of Fashion-MNIST: images as uint8 ``(n, height, width)`` or labels as int64 ``(n,)``.

    Raises DataError if the file is broken, cut short, or holds something else.
    """
    # Imported late: it imports torch, which the other sources do not need.
    from torchvision.datasets.mnist import read_image_file, read_label_file

    try:
        # torchvision reads uncompressed files only.
        with TemporaryDirectory() as folder:
            uncompressed = Path(folder) / "idx"
            with gzip.open(path) as packed, uncompressed.open("wb") as file:
                shutil.copyfileobj(packed, file)
            read = read_image_file if content == "images" else read_label_file
            return read(str(uncompressed)).numpy()
    except (OSError, EOFError, zlib.error, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error) or "its header is not that of an idx file"
        raise DataError(f"{path}: not a gzipped idx file of {content} ({reason}); {FASHION_MNIST_BY_HAND}") from error
