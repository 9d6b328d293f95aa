"""Refuse what could not be written, or is not ours to replace, before any work is done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vitprune.errors import StorageError
from vitprune.storage.mark import MARK, files_not_ours


def check_targets(*, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> None:
    """Refuse targets that could not be written, or that hold something of the user's, before any work is done.

    Raises StorageError for a path that stands twice, a file that is a folder, a folder that is a file, a parent that is
    not a writable folder, and a folder with files in it that vitprune did not write.
    """
    files, folders = list(files), list(folders)
    for target, count in Counter(path.absolute() for path in (*files, *folders)).items():
        if count > 1:
            raise StorageError(f"{target}: two outputs would be written there; give each a path of its own")
    for target in (*files, *folders):
        parent = next(folder for folder in target.absolute().parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise StorageError(f"{target}: cannot be written, because {parent} is not a writable folder")
    for target in files:
        if target.is_dir():
            raise StorageError(f"{target}: is a folder, but a file is to be written there; give another path")
    for target in folders:
        if target.exists() and not target.is_dir():
            raise StorageError(f"{target}: is a file, but a folder is to be written there; give another path")
        if target.is_dir():
            _check_ours(target)


def _check_ours(folder: Path) -> None:
    try:
        others = files_not_ours(folder)
        is_marked = (folder / MARK).exists()
    except OSError as error:
        raise StorageError(f"{folder}: cannot be read ({error.strerror}); give another folder") from error
    if others:
        advice = "move them elsewhere" if is_marked else "empty it"
        raise StorageError(
            f"{folder}: would be replaced as a whole, but holds files that vitprune did not write "
            f"({', '.join(others[:3])}); {advice}, or give another folder"
        )
