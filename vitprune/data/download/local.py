"""Sources on this machine: scikit-learn's digits, an archive, and a folder of images."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from vitprune.data.raw.archive import check_archive
from vitprune.data.raw.folder import DIGITS_FILE, SOURCE_FILE
from vitprune.data.raw.limits import UNLIMITED, ArchiveLimits
from vitprune.data.raw.tree import shown, walk
from vitprune.errors import DataError
from vitprune.storage import MARK

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

    Raises DataError as ``check_archive`` does.
    """
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
    Raises DataError if there is nothing to pack, if a file cannot be read, if a folder's name holds a backslash, or if
    vitprune writes a folder inside ``path``.
    """
    entries = walk(path)
    folders = {name for name, file in entries if file.is_dir()}
    for name in sorted(folders):
        _check_folder(name, path / name)
    total = len(entries) - len(folders)
    if not total:
        raise DataError(f"data.path: {shown(path)} holds no files; it must hold class folders with images")
    done = 0
    with tarfile.open(folder / FOLDER_TAR, "w") as tar:
        for name, file in entries:
            if name in folders:
                tar.addfile(_entry(name, is_folder=True))
                continue
            try:
                content = file.read_bytes()
            except OSError as error:
                raise DataError(
                    f"{shown(file)}: not readable ({error.strerror}); make it readable, or remove it"
                ) from error
            tar.addfile(_entry(name, size=len(content)), io.BytesIO(content))
            done += 1
            on_progress(done, total)
    return [FOLDER_TAR]


def _check_folder(name: str, folder: Path) -> None:
    if (folder / MARK).exists():
        raise DataError(f"data.path: {shown(folder)}, inside it, was written by vitprune; move one out of the other")
    if "\\" in name:
        # Where archives are read, a backslash separates folders, as on Windows.
        raise DataError(f"{shown(folder)}: has a backslash in its name; rename it")


def _entry(name: str, *, size: int = 0, is_folder: bool = False) -> tarfile.TarInfo:
    # TarInfo sets times and owners to zero.
    info = tarfile.TarInfo(name)
    info.size = size
    if is_folder:
        info.type = tarfile.DIRTYPE
    info.mode = 0o755 if is_folder else 0o644
    return info
