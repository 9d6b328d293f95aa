"""A local folder of images, packed into one tar whose bytes depend on names and contents alone."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

from vitprune.errors import DataError

logger = logging.getLogger(__name__)

FILE = "images.tar"


def fetch(folder: Path, path: Path, on_progress: Callable[[int, int], None]) -> list[str]:
    """Pack ``path`` into ``folder``; returns the name of the tar.

    Folders have entries of their own, so that a class without files stays visible. Hidden files are left out. Links
    are followed, except those that lead back to a folder above. Raises DataError if there is nothing to pack, if a
    file cannot be read, or if ``folder`` itself lies in ``path``.
    """
    if path.resolve() in folder.resolve().parents:
        raise DataError(f"data.path: {path} contains the folder to write ({folder.parent}); move one out of the other")
    entries = _entries(path)
    total = sum(file.is_file() for _, file in entries)
    if not total:
        raise DataError(f"data.path: {path} holds no files; it must hold class folders with images")
    done = 0
    with tarfile.open(folder / FILE, "w") as tar:
        for name, file in entries:
            if file.is_dir():
                tar.addfile(_entry(name, is_folder=True))
                continue
            try:
                content = file.read_bytes()
            except OSError as error:
                raise DataError(f"{file}: not readable ({error.strerror}); make it readable, or remove it") from error
            tar.addfile(_entry(name, size=len(content)), io.BytesIO(content))
            done += 1
            on_progress(done, total)
    return [FILE]


def _entry(name: str, *, size: int = 0, is_folder: bool = False) -> tarfile.TarInfo:
    # Times and owners stay zero, as TarInfo sets them.
    info = tarfile.TarInfo(name)
    info.size = size
    if is_folder:
        info.type = tarfile.DIRTYPE
    info.mode = 0o755 if is_folder else 0o644
    return info


def _entries(root: Path) -> list[tuple[str, Path]]:
    """Files and folders below ``root`` with their names in the tar, sorted by name."""
    found: list[tuple[str, Path]] = []
    # Each folder comes with the real paths above it: a link to one of them would never end.
    waiting = [("", root, frozenset({root.resolve()}))]
    while waiting:
        prefix, folder, above = waiting.pop()
        try:
            children = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise DataError(f"{folder}: not readable ({error.strerror}); make it readable, or remove it") from error
        for child in children:
            path, name = folder / child, f"{prefix}{child}"
            if child.startswith("."):
                continue
            if path.is_dir():
                real = path.resolve()
                if real in above:
                    logger.warning("%s leads back to %s and is left out", path, real)
                    continue
                waiting.append((f"{name}/", path, above | {real}))
            elif not path.is_file():
                logger.warning("%s is neither a file nor a folder and is left out", path)
                continue
            found.append((name, path))
    return sorted(found)
