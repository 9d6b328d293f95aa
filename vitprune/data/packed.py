"""Packed data: per split one uint8 array of images and one of labels, memory-mapped when read, and ``dataset.json``.

Legend of dimensions: N images, C channels, H height, W width (both image_size)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from vitprune.errors import CheckpointError, DataError
from vitprune.storage import read_json, write_json

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
STD_FLOOR = 1 / 255
"""One grey level: a channel that never changes can still be divided by its deviation."""
_AGAIN = "run the clean stage again (dvc repro clean, or vitprune clean)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images, uint8 ``(N, C, H, W)``, and their labels, int64 ``(N,)``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedData:
    """All splits, the name of each label, and each channel's mean and deviation over train, of pixels from 0 to 1."""

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class SplitContent:
    """A split on its way to disk: its images in blocks ``(any, C, H, W)``, which need not fit into memory together."""

    blocks: Iterable[NDArray[np.uint8]]
    labels: NDArray[np.int64]


class _Dataset(BaseModel):
    """``dataset.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int
    class_names: tuple[str, ...]
    class_folders: tuple[str, ...]
    image_size: int
    channels: int
    images: dict[SplitName, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_packed(folder: Path) -> PackedData:
    """Open packed data; images are read from disk as they are used.

    Raises DataError, naming the file, if one is missing, broken, or does not go with the others.
    """
    path = folder / DATASET_FILE
    try:
        dataset = _Dataset.model_validate(read_json(path))
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {key}: {first['msg']}; {_AGAIN}") from None
    if dataset.format_version != FORMAT_VERSION:
        raise DataError(f"{path}: format version {dataset.format_version}, expected {FORMAT_VERSION}; {_AGAIN}")
    if not len(dataset.mean) == len(dataset.std) == dataset.channels or min(dataset.std) <= 0:
        raise DataError(f"{path}: mean and std must be {dataset.channels} numbers each, std above 0; {_AGAIN}")
    return PackedData(
        train=_load_split(folder, "train", dataset),
        val=_load_split(folder, "val", dataset),
        test=_load_split(folder, "test", dataset),
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
    )


def _load_split(folder: Path, name: SplitName, dataset: _Dataset) -> Split:
    count = dataset.images.get(name, 0)
    images = _load_array(
        folder / f"{name}_images.npy", np.uint8, (count, dataset.channels, dataset.image_size, dataset.image_size)
    )
    labels = _load_array(folder / f"{name}_labels.npy", np.int64, (count,))
    if count and not 0 <= labels.min() <= labels.max() < len(dataset.class_names):
        raise DataError(
            f"{folder / f'{name}_labels.npy'}: labels from {labels.min()} to {labels.max()}, but "
            f"{DATASET_FILE} names {len(dataset.class_names)} classes; {_AGAIN}"
        )
    return Split(images=images, labels=labels)


def _load_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {_AGAIN}") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not readable as an array ({error}); {_AGAIN}") from error
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path}: holds {array.dtype} {array.shape}, but {DATASET_FILE} says {np.dtype(dtype)} {shape}; {_AGAIN}"
        )
    return array


def write_packed(
    folder: Path,
    splits: Mapping[SplitName, SplitContent],
    *,
    class_names: Iterable[str],
    class_folders: Iterable[str],
    image_size: int,
    channels: int,
) -> None:
    """Write packed data into an existing folder, mean and std over the training images among it.

    The caller sees to it that the folder appears whole or not at all (``storage.atomic_folder``).
    """
    histograms = np.zeros((channels, 256), np.int64)
    for name in SPLITS:
        content = splits[name]
        shape = (len(content.labels), channels, image_size, image_size)
        with (folder / f"{name}_images.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in content.blocks:
                assert (block.dtype, block.shape[1:]) == (np.uint8, shape[1:]), (block.dtype, block.shape)
                file.write(np.ascontiguousarray(block).data)
                if name == "train":
                    histograms += _histograms(block)
        np.save(folder / f"{name}_labels.npy", content.labels.astype(np.int64), allow_pickle=False)
    mean, std = _moments(histograms)
    dataset = _Dataset(
        format_version=FORMAT_VERSION,
        class_names=tuple(class_names),
        class_folders=tuple(class_folders),
        image_size=image_size,
        channels=channels,
        images={name: len(splits[name].labels) for name in SPLITS},
        mean=mean,
        std=std,
    )
    write_json(folder / DATASET_FILE, dataset.model_dump(mode="json"))


def _histograms(block: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 values occurs, ``(C, 256)``: exact sums, however many images there are."""
    return np.stack([np.bincount(block[:, channel].ravel(), minlength=256) for channel in range(block.shape[1])])


def _moments(histograms: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = np.arange(256) / 255
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return tuple(map(float, mean)), tuple(float(max(std, STD_FLOOR)) for std in np.sqrt(variance))
