"""Open a raw folder: check it against the params, and find the images, splits and classes of its source."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
from PIL import Image
from pydantic import ValidationError

from vitprune.data.cleaning.collection import Collection, ImageFile, Layout
from vitprune.data.cleaning.images import decode, to_pixels
from vitprune.data.cleaning.kinds import START_BYTES, kind_of
from vitprune.data.cleaning.layout import find_layout, is_text_of_interest
from vitprune.data.options import DataOptions
from vitprune.data.raw.archive import Member, stream_members
from vitprune.data.raw.folder import (
    DIGITS_FILE,
    FASHION_MNIST_BY_HAND,
    FASHION_MNIST_FILES,
    FORMAT_VERSION,
    SOURCE_FILE,
    RawSource,
    kaggle_handle,
    read_idx,
)
from vitprune.errors import CheckpointError, DataError
from vitprune.storage import check_unchanged, read_json

MAX_IMAGE_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 26
"""Longer files are neither photographs nor lists of classes, whatever their names, and must not fill the memory."""

FASHION_MNIST_CLASSES = (
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
_AGAIN = "run the download stage again (dvc repro download)"


def open_raw(raw: Path, data: DataOptions) -> Collection:
    """Open the raw folder of these params. Raises DataError if it is missing, broken or of another source."""
    source = read_source(raw, data)
    match data.source:
        case "digits":
            return open_digits(raw, data.channels)
        case "fashion-mnist":
            return open_fashion_mnist(raw, data.channels)
        case "kaggle" | "folder" | "archive":
            return open_archive(raw / source.files[0].name, data.channels)
    assert_never(data.source)


def read_source(folder: Path, data: DataOptions) -> RawSource:
    """Read ``source.json`` and check that it belongs to these params and that its files are there.

    Raises DataError if it is missing, broken or of another source, or if a file is missing or changed.
    """
    path = folder / SOURCE_FILE
    try:
        content: Any = read_json(path)
        source = RawSource.model_validate(content)
    except CheckpointError as error:
        raise DataError(f"{error}; that is the download stage (dvc repro download)") from None
    except ValidationError:
        raise DataError(f"{path}: not a description of a raw folder; {_AGAIN}") from None
    if source.format_version != FORMAT_VERSION:
        raise DataError(f"{path}: format version {source.format_version}, expected {FORMAT_VERSION}; {_AGAIN}")
    if source.source != data.source:
        raise DataError(f"{path}: holds {source.source!r}, but data.source is {data.source!r}; {_AGAIN}")
    wanted = kaggle_handle(data)
    if source.kaggle_handle != wanted:
        raise DataError(
            f"{path}: holds {source.kaggle_handle or 'an archive fetched by hand'}, but the params ask for "
            f"{wanted or data.path} (data.kaggle_handle, data.path); {_AGAIN}"
        )
    for expected in source.files:
        file = folder / expected.name
        if not file.is_file():
            raise DataError(f"{file}: missing; {_AGAIN}")
        if file.stat().st_size != expected.bytes:
            raise DataError(f"{file}: {file.stat().st_size} bytes, {SOURCE_FILE} says {expected.bytes}; {_AGAIN}")
    try:
        check_unchanged(folder)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    return source


def open_archive(archive: Path, channels: Literal[1, 3]) -> Collection:
    """Find the layout of an archive; its images are decoded in a second pass.

    Raises DataError, naming the archive, if it cannot be read or if its layout is not understood.
    """
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    texts: dict[str, str] = {}
    starts: dict[int, bytes] = {}
    for member in stream_members(archive):
        if member.is_folder:
            folders.append(member.name)
        elif member.is_link:
            links.append(member.name)
        else:
            if is_text_of_interest(member.name) and member.size <= MAX_TEXT_BYTES:
                # Bytes that are not UTF-8 become what they are in names.
                texts[member.name] = member.read(MAX_TEXT_BYTES).decode("utf-8", "surrogateescape")
            elif kind_of(member.name) == "other":
                starts[len(files)] = member.read(START_BYTES)
            files.append(member.name)
    try:
        layout = find_layout(files, [name for name in folders if name], texts, links=links, starts=starts)
    except DataError as error:
        raise DataError(f"{archive}: {error}") from None
    index_of = {image.position: index for index, image in enumerate(layout.images)}

    def read() -> Iterator[tuple[int, np.ndarray | None]]:
        position = 0
        for member in stream_members(archive):
            if member.is_folder or member.is_link:
                continue
            if position in index_of:
                yield index_of[position], _decode_member(member, channels)
            position += 1

    return Collection(layout=layout, read=read)


def _decode_member(member: Member, channels: Literal[1, 3]) -> np.ndarray | None:
    if member.size > MAX_IMAGE_BYTES:
        return None
    return decode(member.read(MAX_IMAGE_BYTES), channels)


def open_digits(folder: Path, channels: Literal[1, 3]) -> Collection:
    """Open the digits of scikit-learn: 1,797 grey images of 8×8 pixels with values of 0..16, without splits.

    Raises DataError if the file is not the one that scikit-learn ships.
    """
    path = folder / DIGITS_FILE
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); {_AGAIN}") from error
    if rows.ndim != 2 or rows.shape[1] != 65 or rows.min() < 0 or rows[:, :64].max() > 16:
        raise DataError(f"{path}: not scikit-learn's digits; {_AGAIN}")
    values = np.round(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    digits = rows[:, 64].astype(int)

    def read() -> Iterator[tuple[int, np.ndarray | None]]:
        for index, image in enumerate(values):
            yield index, to_pixels(Image.fromarray(image), channels)

    images = tuple(
        ImageFile(name=f"{DIGITS_FILE}/{row:04}", split="train", folder=str(digit), position=row)
        for row, digit in enumerate(digits)
    )
    names = {str(digit): str(digit) for digit in sorted(set(digits))}
    return Collection(layout=Layout(images=images, class_names=names), read=read)


def open_fashion_mnist(folder: Path, channels: Literal[1, 3]) -> Collection:
    """Open Fashion-MNIST, which has a train and a test split.

    Raises DataError if a file is broken, or if labels and images do not belong together.
    """
    pixels: list[np.ndarray] = []
    images: list[ImageFile] = []
    for split, (image_file, label_file) in FASHION_MNIST_FILES.items():
        values, labels = read_idx(folder / image_file, "images"), read_idx(folder / label_file, "labels")
        if len(values) != len(labels) or labels.max(initial=0) >= len(FASHION_MNIST_CLASSES):
            raise DataError(
                f"{folder / label_file}: {len(labels)} labels up to {labels.max(initial=0)} for {len(values)} images "
                f"of {len(FASHION_MNIST_CLASSES)} classes; {FASHION_MNIST_BY_HAND}"
            )
        images += [
            ImageFile(name=f"{image_file}/{row:05}", split=split, folder=str(label), position=len(images) + row)
            for row, label in enumerate(labels)
        ]
        pixels.append(values)

    names = {str(label): name for label, name in enumerate(FASHION_MNIST_CLASSES)}
    layout = Layout(images=tuple(sorted(images, key=lambda image: image.name)), class_names=names)

    def read() -> Iterator[tuple[int, np.ndarray | None]]:
        index_of = {image.position: index for index, image in enumerate(layout.images)}
        for position, image in enumerate(row for values in pixels for row in values):
            yield index_of[position], to_pixels(Image.fromarray(image), channels)

    return Collection(layout=layout, read=read)
