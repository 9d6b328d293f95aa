"""Fetch the source that the params name, and describe what came in ``source.json``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import platformdirs

from vitprune.data.download import fashion_mnist, kaggle, local
from vitprune.data.options import DataOptions
from vitprune.data.raw.folder import FORMAT_VERSION, SOURCE_FILE, RawFile, RawSource, kaggle_handle
from vitprune.data.raw.limits import UNLIMITED, ArchiveLimits
from vitprune.data.raw.names import escaped
from vitprune.data.raw.tree import shown
from vitprune.errors import DataError
from vitprune.storage import MARK, sha256_of, write_json


def fetch(
    data: DataOptions,
    folder: Path,
    on_progress: Callable[[int, int], None],
    limits: ArchiveLimits = UNLIMITED,
) -> None:
    """Put the files of the source into ``folder``, which exists and is empty, and describe them in ``source.json``.

    The caller makes the folder appear whole or not at all (``storage.atomic_folder``), and calls ``check_path`` first.
    Raises DataError if the source cannot be used, and DownloadError if it cannot be reached.
    """
    names = _fetch_files(data, folder, on_progress, limits)
    files = [
        RawFile(name=name, bytes=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
        for name in sorted(names)
    ]
    source = RawSource(
        format_version=FORMAT_VERSION, source=data.source, kaggle_handle=kaggle_handle(data), files=files
    )
    write_json(folder / SOURCE_FILE, source.model_dump())


def _fetch_files(
    data: DataOptions, folder: Path, on_progress: Callable[[int, int], None], limits: ArchiveLimits
) -> list[str]:
    """Fetch the files and return their names."""
    path = _existing_path(data)
    match data.source:
        case "digits":
            return local.fetch_digits(folder)
        case "fashion-mnist":
            return fashion_mnist.fetch(folder, path, _cache_folder())
        case "kaggle" if path is None:
            return kaggle.fetch(folder, data.kaggle_handle, _cache_folder(), on_progress, limits)
        case "folder":
            assert path is not None, "DataOptions requires data.path"
            return local.fetch_folder(folder, path, on_progress)
        case "kaggle" | "archive":
            assert path is not None, "DataOptions requires data.path"
            return local.fetch_archive(folder, path, on_progress, limits)
        case _:
            assert_never(data.source)


def check_path(data: DataOptions, out: Path) -> None:
    """Refuse a ``data.path`` that cannot be read, or that the pipeline would replace, before anything is touched.

    Raises DataError if it is, contains or lies in the folder ``out`` to write, or lies in one that vitprune wrote.
    """
    path = _existing_path(data)
    if path is None:
        return
    try:
        real, target = path.resolve(), out.resolve()
        written = next((folder for folder in (real, *real.parents) if (folder / MARK).exists()), None)
        if any(_is_same(real, folder) for folder in (target, *target.parents)):
            fault = f"is or contains the folder to write ({out})"
        elif any(_is_same(target, folder) for folder in real.parents):
            fault = f"lies in the folder to write ({out})"
        elif written is not None:
            fault = f"is or lies in {written}, which vitprune wrote and replaces as a whole"
        else:
            return
    except OSError as error:
        raise DataError(f"data.path: {shown(path)} is not readable ({error.strerror})") from error
    raise DataError(f"data.path: {shown(path)} {fault}; move the images to a folder of their own, and name that")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two resolved paths are one; a file system may fold case, or show a folder at two places."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _existing_path(data: DataOptions) -> Path | None:
    """``data.path`` with ``~`` expanded; DataError if it does not exist or is not of the kind that is needed."""
    if data.path is None or data.source == "digits":
        return None
    try:
        path = Path(data.path).expanduser()
        is_there, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
    except RuntimeError as error:
        raise DataError(f"data.path: {escaped(data.path)}: {error}; write the folder in full") from error
    except OSError as error:
        raise DataError(f"data.path: {escaped(data.path)} is not readable ({error.strerror})") from error
    if not is_there:
        raise DataError(
            f"data.path: {shown(path)} does not exist (paths are relative to the working directory {Path.cwd()})"
        )
    if data.source in ("folder", "fashion-mnist"):
        if not is_folder:
            hint = "; set data.source to archive if it is one" if data.source == "folder" else ""
            raise DataError(f"data.path: {shown(path)} is not a folder, which data.source {data.source!r} needs{hint}")
    elif is_folder:
        raise DataError(f"data.path: {shown(path)} is a folder, not an archive; set data.source to folder")
    elif not is_file:
        # A pipe or a device may never end.
        raise DataError(f"data.path: {shown(path)} is neither a file nor a folder; name the archive itself")
    return path


def _cache_folder() -> Path:
    """Where interrupted downloads wait to be resumed, outside the folder that the stage replaces.

    This is the user's cache folder, or the folder named by the environment variable VITPRUNE_CACHE.
    """
    named = os.environ.get("VITPRUNE_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("vitprune"))
