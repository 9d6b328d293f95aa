"""Where images come from: one module per source, each of which puts files into the raw folder as they came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitprune.data.options import DataOptions
from vitprune.data.sources import digits, fashion_mnist, folder, kaggle, local_archive
from vitprune.errors import DataError


def fetch(data: DataOptions, raw: Path, on_progress: Callable[[int, int], None]) -> list[str]:
    """Put the files of the source that ``data`` names into the folder ``raw``; returns their names.

    Raises DataError, or DownloadError, its kind, where the source is out of reach.
    """
    path = _existing(data)
    match data.source:
        case "digits":
            return digits.fetch(raw)
        case "fashion-mnist":
            return fashion_mnist.fetch(raw, path)
        case "kaggle" if path is None:
            return kaggle.fetch(raw, data.kaggle_handle, on_progress)
        case "folder":
            assert path is not None, "config asks for data.path"
            return folder.fetch(raw, path, on_progress)
        case _:
            assert path is not None, "config asks for data.path"
            return local_archive.fetch(raw, path, on_progress)


def _existing(data: DataOptions) -> Path | None:
    """``data.path`` with ``~`` expanded; DataError if it does not exist, or is a file where a folder is needed."""
    if data.path is None or data.source == "digits":
        return None
    path = Path(data.path).expanduser()
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist (paths are relative to the working directory {Path.cwd()})")
    if data.source in ("folder", "fashion-mnist") and not path.is_dir():
        hint = "; set data.source to archive if it is one" if data.source == "folder" else ""
        raise DataError(f"data.path: {path} is not a folder, which data.source {data.source!r} needs{hint}")
    return path
