"""Open a raw folder: check it against the params, and find the images, splits and classes of its source."""

from __future__ import annotations

import gzip
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from pydantic import ValidationError

from vitprune.data.cleaning.collection import Collection, Content, ImageFile, Layout
from vitprune.data.cleaning.kinds import START_BYTES, kind_of
from vitprune.data.cleaning.layout import find_layout, is_text_of_interest
from vitprune.data.cleaning.pixels import UnusableImage
from vitprune.data.options import CleanOptions, DataOptions
from vitprune.data.raw.archive import ArchiveLimits, Member, stream_members
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

BYTES_PER_PIXEL = 8
HEADER_BYTES = 1 << 24
"""A file that is longer than so much for each pixel of the largest image allowed, and so much besides, is no image."""
MAX_TEXT_BYTES = 1 << 26
"""A longer file is no list of classes, whatever its name, and must not fill the memory."""

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


def open_raw(raw: Path, data: DataOptions, params: CleanOptions) -> Collection:
    """Open the raw folder of these params. Raises DataError if it is missing, broken or of another source."""
    source = read_source(raw, data)
    match data.source:
        case "digits":
            return open_digits(raw)
        case "fashion-mnist":
            return open_fashion_mnist(raw)
        case "kaggle" | "folder" | "archive":
            return open_archive(raw / source.files[0].name, params.archive_limits, params.max_pixels)
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


def open_archive(archive: Path, limits: ArchiveLimits, max_pixels: int) -> Collection:
    """Find the layout of an archive; its images are read in a second pass.

    Raises DataError, naming the archive, if it cannot be read or if its layout is not understood.
    """
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    texts: dict[str, str] = {}
    starts: dict[int, bytes] = {}
    for member in stream_members(archive, limits):
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

    def read(wanted: Container[int]) -> Iterator[tuple[int, Content]]:
        position = 0
        for member in stream_members(archive, limits):
            if member.is_folder or member.is_link:
                continue
            index = index_of.get(position)
            if index is not None and index in wanted:
                yield index, _read_member(member, max_pixels)
            position += 1

    return Collection(layout=layout, read=read)


def _read_member(member: Member, max_pixels: int) -> Content:
    most = BYTES_PER_PIXEL * max_pixels + HEADER_BYTES
    if member.size > most:
        return UnusableImage(
            "too many pixels", f"a file of {member.size} bytes, too long for clean.max_pixels ({max_pixels})"
        )
    return member.read(most)


def open_digits(folder: Path) -> Collection:
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

    def read(wanted: Container[int]) -> Iterator[tuple[int, Content]]:
        yield from ((index, image) for index, image in enumerate(values) if index in wanted)

    images = tuple(
        ImageFile(name=f"{DIGITS_FILE}/{row:04}", split="train", folder=str(digit), position=row)
        for row, digit in enumerate(digits)
    )
    names = {str(digit): str(digit) for digit in sorted(set(digits))}
    return Collection(layout=Layout(images=images, class_names=names), read=read)


def open_fashion_mnist(folder: Path) -> Collection:
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

    def read(wanted: Container[int]) -> Iterator[tuple[int, Content]]:
        index_of = {image.position: index for index, image in enumerate(layout.images)}
        for position, image in enumerate(row for values in pixels for row in values):
            if (index := index_of[position]) in wanted:
                yield index, image

    return Collection(layout=layout, read=read)
