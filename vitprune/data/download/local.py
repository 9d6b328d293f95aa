"""Sources on this machine: scikit-learn's digits, an archive, and a folder of images."""

from __future__ import annotations

import io
import logging
import re
import shutil
import tarfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from vitprune.data.raw.archive import check_archive
from vitprune.data.raw.folder import DIGITS_FILE, SOURCE_FILE
from vitprune.data.raw.limits import UNLIMITED, ArchiveLimits
from vitprune.errors import DataError

logger = logging.getLogger(__name__)

FOLDER_TAR = "images.tar"


def fetch_digits(folder: Path) -> list[str]:
    """Copy the file of digits that scikit-learn ships into ``folder``; returns its name."""
    with resources.as_file(resources.files("sklearn.datasets.data") / DIGITS_FILE) as bundled:
        shutil.copyfile(bundled, folder / DIGITS_FILE)
    return [DIGITS_FILE]


def fetch_archive(
    folder: Path, path: Path, on_progress: Callable[[int, int], None], limits: ArchiveLimits = UNLIMITED
) -> list[str]:
    """Read the archive ``path`` to its end and copy it into ``folder``; returns its name.

    Raises DataError if ``path`` is a folder, or as ``check_archive`` does.
    """
    if path.is_dir():
        raise DataError(f"data.path: {path} is a folder, not an archive; set data.source to folder")
    check_archive(path, on_progress, limits=limits)
    # The name stays recognisable, without characters that other tools may reject.
    name = re.sub(r"[^\w.\-]", "_", path.name).lstrip(".") or "archive"
    if name == SOURCE_FILE:
        raise DataError(f"data.path: {path} has the name of vitprune's own file; rename it")
    shutil.copyfile(path, folder / name)
    return [name]


def fetch_folder(folder: Path, path: Path, on_progress: Callable[[int, int], None]) -> list[str]:
    """Pack the folder ``path`` into one tar in ``folder``; returns its name.

    The bytes of the tar depend on names and contents only. Folders have their own entries, so that a class without
    files stays visible. Hidden files are left out. Links are followed unless they lead back to a folder above them.
    Raises DataError if there is nothing to pack, if a file cannot be read, or if ``folder`` lies inside ``path``.
    """
    if path.resolve() in folder.resolve().parents:
        raise DataError(f"data.path: {path} contains the folder to write ({folder.parent}); move one out of the other")
    entries = _entries(path)
    total = sum(file.is_file() for _, file in entries)
    if not total:
        raise DataError(f"data.path: {path} holds no files; it must hold class folders with images")
    done = 0
    with tarfile.open(folder / FOLDER_TAR, "w") as tar:
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
    return [FOLDER_TAR]


def _entry(name: str, *, size: int = 0, is_folder: bool = False) -> tarfile.TarInfo:
    # TarInfo sets times and owners to zero.
    info = tarfile.TarInfo(name)
    info.size = size
    if is_folder:
        info.type = tarfile.DIRTYPE
    info.mode = 0o755 if is_folder else 0o644
    return info


def _entries(root: Path) -> list[tuple[str, Path]]:
    """Files and folders below ``root`` with their names in the tar, sorted by name."""
    entries: list[tuple[str, Path]] = []
    # Each folder carries the real paths of the folders above it: following a link to one of them would never end.
    pending = [("", root, frozenset({root.resolve()}))]
    while pending:
        prefix, folder, above = pending.pop()
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
                pending.append((f"{name}/", path, above | {real}))
            elif not path.is_file():
                logger.warning("%s is neither a file nor a folder and is left out", path)
                continue
            entries.append((name, path))
    return sorted(entries)
