"""The mark in every folder that vitprune writes: that the folder is ours, and the checksum of each file in it.

The mark follows from the files alone, so that equal results have equal marks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from vitprune.errors import CheckpointError
from vitprune.storage.reading import read_json, sha256_of

MARK = ".made-by-vitprune"
"""The file that marks a folder as ours. It is written last."""
NOTE = "vitprune wrote this folder and replaces it as a whole; keep no files of your own in it"
EARLIER_MARK = "vitprune wrote this folder and replaces it as a whole. Keep no files of your own in it.\n"
"""The whole mark of versions before checksums."""
SKIP_CHECKSUMS = "VITPRUNE_SKIP_CHECKSUMS"
"""The environment variable that, set to anything, spares the time that large folders take to be checked."""
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers leave in folders; nobody misses it."""


def write_mark(folder: Path) -> None:
    """Mark a complete folder as ours, with the checksum of every file in it."""
    checksums = {name: sha256_of(folder / name) for name in sorted(_files_in(folder))}
    (folder / MARK).write_bytes(_mark_of(checksums))


def check_unchanged(folder: Path) -> None:
    """Check every file of a folder against the folder's mark.

    A folder without a mark, as one that was put together by hand, has nothing to be checked against. Raises
    CheckpointError, naming the file, if a file is missing or is not what was written.
    """
    if SKIP_CHECKSUMS in os.environ:
        return
    for name, checksum in (_checksums(folder) or {}).items():
        try:
            is_same = sha256_of(folder / name) == checksum
        except FileNotFoundError:
            raise CheckpointError(f"{folder / name}: is gone, but {MARK} lists it; {_advice(folder)}") from None
        except OSError as error:
            raise CheckpointError(f"{folder / name}: not readable ({error.strerror}); {_advice(folder)}") from error
        if not is_same:
            raise CheckpointError(f"{folder / name}: is not what vitprune wrote; {_advice(folder)}")


def files_not_ours(folder: Path) -> list[str]:
    """Names, below a folder that exists, of the files that its mark does not list: all if there is no mark."""
    try:
        checksums = _checksums(folder)
    except CheckpointError:
        # A broken mark does not make the folder anybody else's, but what it listed is not known.
        checksums = {}
    if checksums is None and (folder / MARK).exists():
        return []
    return sorted(_files_in(folder) - (checksums or {}).keys())


def _checksums(folder: Path) -> dict[str, str] | None:
    """The checksums in a folder's mark by the name of the file; None if the folder has none, or an earlier one."""
    path = folder / MARK
    if not path.exists() or path.read_bytes() == EARLIER_MARK.encode():
        return None
    try:
        checksums = dict(read_json(path)["sha256"])
        is_ours = path.read_bytes() == _mark_of(checksums)
    except (CheckpointError, KeyError, TypeError, ValueError):
        is_ours = False
    if not is_ours:
        raise CheckpointError(f"{path}: is not what vitprune wrote; {_advice(folder)}")
    return checksums


def _mark_of(checksums: dict[str, str]) -> bytes:
    return (json.dumps({"note": NOTE, "sha256": checksums}, indent=2, ensure_ascii=False) + "\n").encode()


def _files_in(folder: Path) -> set[str]:
    """Names of the files at any depth, with forward slashes, but for the mark itself."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in files if path.name not in SYSTEM_FILES}
    return names - {MARK}


def _advice(folder: Path) -> str:
    return (
        "get the folder back (dvc checkout --force) or write it again (dvc repro --force), or, if you changed it on "
        f"purpose, delete {folder / MARK}"
    )
