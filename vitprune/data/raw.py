"""The raw folder: a source as it came, and ``source.json``, which says what lies there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitprune.data.options import DataOptions
from vitprune.errors import CheckpointError, DataError
from vitprune.storage import read_json, sha256_of, write_json

FORMAT_VERSION = 1
SOURCE_FILE = "source.json"
AGAIN = "run the download stage again (dvc repro download, or vitprune download)"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RawFile(_Strict):
    """One file of a raw folder."""

    name: str
    bytes: int
    sha256: str


class RawSource(_Strict):
    """What a raw folder holds. ``kaggle_handle`` is null where the archive was not fetched from Kaggle."""

    format_version: int
    source: str
    kaggle_handle: str | None
    files: list[RawFile] = Field(min_length=1)


def _handle(data: DataOptions) -> str | None:
    # An archive that was fetched by hand need not be that of the handle, so nothing is claimed about it.
    return data.kaggle_handle if data.source == "kaggle" and data.path is None else None


def write_source(folder: Path, data: DataOptions, names: Iterable[str]) -> RawSource:
    """Describe the files ``names`` of a raw folder in its ``source.json``."""
    files = [
        RawFile(name=name, bytes=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
        for name in sorted(names)
    ]
    source = RawSource(format_version=FORMAT_VERSION, source=data.source, kaggle_handle=_handle(data), files=files)
    write_json(folder / SOURCE_FILE, source.model_dump())
    return source


def read_source(folder: Path, data: DataOptions) -> RawSource:
    """Read ``source.json`` and check that it belongs to these params and that its files lie there.

    Raises DataError if it is missing, broken, of another source, or if a file is missing or of another size.
    """
    path = folder / SOURCE_FILE
    try:
        content: Any = read_json(path)
        source = RawSource.model_validate(content)
    except CheckpointError as error:
        raise DataError(f"{error}; that is the download stage (vitprune download)") from None
    except ValidationError:
        raise DataError(f"{path}: not a description of a raw folder; {AGAIN}") from None
    if source.format_version != FORMAT_VERSION:
        raise DataError(f"{path}: format version {source.format_version}, expected {FORMAT_VERSION}; {AGAIN}")
    if source.source != data.source:
        raise DataError(f"{path}: holds {source.source!r}, but data.source is {data.source!r}; {AGAIN}")
    if source.kaggle_handle != _handle(data):
        raise DataError(
            f"{path}: holds {source.kaggle_handle or 'an archive fetched by hand'}, but the params ask for "
            f"{_handle(data) or data.path} (data.kaggle_handle, data.path); {AGAIN}"
        )
    for file in source.files:
        found = folder / file.name
        if not found.is_file():
            raise DataError(f"{found}: missing; {AGAIN}")
        if found.stat().st_size != file.bytes:
            raise DataError(f"{found}: {found.stat().st_size} bytes, {path.name} says {file.bytes}; {AGAIN}")
    return source
