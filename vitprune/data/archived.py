"""The images of an archive, read in two passes: one for the names, one for the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from vitprune.data.archive import Member, stream_members
from vitprune.data.collection import Collection
from vitprune.data.decode import decode
from vitprune.data.layout import find_layout, is_text_of_interest
from vitprune.errors import DataError

MAX_IMAGE_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 26
"""Longer files are no photograph and no list of classes, whatever their names; they must not fill the memory."""


def open_archive(archive: Path, channels: Literal[1, 3]) -> Collection:
    """Find out what lies where in an archive.

    Raises DataError, naming the archive, if it cannot be read or if its layout is not understood.
    """
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    texts: dict[str, str] = {}
    for member in stream_members(archive):
        if member.is_folder:
            folders.append(member.name)
        elif member.is_link:
            links.append(member.name)
        else:
            files.append(member.name)
            if is_text_of_interest(member.name) and member.size <= MAX_TEXT_BYTES:
                texts[member.name] = member.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
    try:
        layout = find_layout(files, [name for name in folders if name], texts, links=links)
    except DataError as error:
        raise DataError(f"{archive}: {error}") from None
    index_of = {image.position: index for index, image in enumerate(layout.images)}

    def read() -> Iterator[tuple[int, np.ndarray | None]]:
        position = 0
        for member in stream_members(archive):
            if member.is_folder or member.is_link:
                continue
            if position in index_of:
                yield index_of[position], _pixels(member, channels)
            position += 1

    return Collection(layout=layout, read=read)


def _pixels(member: Member, channels: Literal[1, 3]) -> np.ndarray | None:
    if member.size > MAX_IMAGE_BYTES:
        return None
    return decode(member.read(MAX_IMAGE_BYTES), channels)
