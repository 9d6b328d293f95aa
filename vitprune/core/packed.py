"""Packed data: ``dataset.json``, and for each split a uint8 array of images and an int64 array of labels.

``cleaning/packing.py`` writes it. The arrays are memory-mapped when they are read.
Legend of dimensions: N images, C channels, H height, W width (both are image_size).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitprune.errors import CheckpointError, DataError
from vitprune.storage import check_unchanged, read_json

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

FULL_DEPTH = 16
"""The most bits that image files hold for each sample."""
FORMAT_VERSION = 2
DATASET_FILE = "dataset.json"
_AGAIN = "run the clean stage again (dvc repro clean)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images, uint8 ``(N, C, H, W)``, and their labels, int64 ``(N,)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedData:
    """All splits and the name of each label.

    ``mean`` and ``std`` are those of each channel over the training images, for pixels from 0 to 1. ``bit_depth`` is
    how many bits the values of source files with 16 bits for each sample really have. ``made_with`` are the params that
    the data were made with, by their full names.
    """

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bit_depth: int = FULL_DEPTH
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class Dataset(BaseModel):
    """``dataset.json``. ``class_folders`` are the class folders of the source, in the order of the labels."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int
    class_names: tuple[str, ...]
    class_folders: tuple[str, ...]
    image_size: int
    channels: int
    images: dict[SplitName, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bit_depth: Annotated[int, Field(ge=8, le=FULL_DEPTH)]
    made_with: dict[str, Any]


def images_file(split: SplitName) -> str:
    """Name of the array of a split's images."""
    return f"{split}_images.npy"


def labels_file(split: SplitName) -> str:
    """Name of the array of a split's labels."""
    return f"{split}_labels.npy"


def load_packed(folder: Path) -> PackedData:
    """Open packed data; images are read from disk when they are used.

    Raises DataError, naming the file, if a file is missing, broken or changed, or if the files do not belong together.
    """
    path = folder / DATASET_FILE
    try:
        dataset = Dataset.model_validate(read_json(path))
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {key}: {first['msg']}; {_AGAIN}") from None
    if dataset.format_version != FORMAT_VERSION:
        raise DataError(f"{path}: format version {dataset.format_version}, expected {FORMAT_VERSION}; {_AGAIN}")
    if not len(dataset.mean) == len(dataset.std) == dataset.channels or min(dataset.std) <= 0:
        raise DataError(f"{path}: mean and std must be {dataset.channels} numbers each, std above 0; {_AGAIN}")
    packed = PackedData(
        train=_load_split(folder, "train", dataset),
        val=_load_split(folder, "val", dataset),
        test=_load_split(folder, "test", dataset),
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        bit_depth=dataset.bit_depth,
        made_with=dataset.made_with,
    )
    try:
        check_unchanged(folder)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    return packed


def _load_split(folder: Path, split: SplitName, dataset: Dataset) -> Split:
    count = dataset.images.get(split, 0)
    shape = (count, dataset.channels, dataset.image_size, dataset.image_size)
    images = _load_array(folder / images_file(split), np.uint8, shape)
    labels = _load_array(folder / labels_file(split), np.int64, (count,))
    if count and not 0 <= labels.min() <= labels.max() < len(dataset.class_names):
        raise DataError(
            f"{folder / labels_file(split)}: labels from {labels.min()} to {labels.max()}, but "
            f"{DATASET_FILE} names {len(dataset.class_names)} classes; {_AGAIN}"
        )
    return Split(images=images, labels=labels)


def _load_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {_AGAIN}") from None
    # The header is read by Python's own parser, which raises nearly anything on a broken one.
    except Exception as error:
        raise DataError(f"{path}: not readable as an array ({error}); {_AGAIN}") from error
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path}: holds {array.dtype} {array.shape}, but {DATASET_FILE} says {np.dtype(dtype)} {shape}; {_AGAIN}"
        )
    return array
