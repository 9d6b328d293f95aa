"""Files and folders that appear whole or not at all, and the JSON that goes into them.

A process may be killed at any moment. What it was writing then lies under a hidden ``.NAME.partial`` beside the
target, which the next writer of the same target removes; the target is either the old one or the complete new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitprune.errors import CheckpointError, StorageError

MARKS = {"config.json", "circuit.json", "dataset.json", "round.json", "source.json"}
"""Every folder that vitprune writes holds one of these."""


def partial_path(target: Path) -> Path:
    """The hidden sibling under which ``target`` is written until it is complete."""
    return target.parent / f".{target.name}.partial"


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes ``target``, on an exception it is removed.

    Raises StorageError if the system does not let it be written.
    """
    partial = partial_path(target)
    with _told_by_path(target):
        check_targets(files=[target])
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        try:
            yield partial
            partial.replace(target)
        except BaseException:
            remove(partial)
            raise


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new empty folder; on success it replaces ``target``, on an exception it is removed.

    A folder cannot be replaced in one step: the old one steps aside first. If the process is killed just then, the
    next writer puts it back. Raises StorageError if the system does not let it be written.
    """
    partial, aside = partial_path(target), target.parent / f".{target.name}.old.partial"
    with _told_by_path(target):
        if target.exists() and not target.is_dir():
            raise StorageError(f"{target}: is a file, but a folder is to be written there; give another path")
        target.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists() and not target.exists():
            aside.replace(target)
        remove(partial)
        remove(aside)
        partial.mkdir()
        try:
            yield partial
            if target.exists():
                target.replace(aside)
            partial.replace(target)
        except BaseException:
            if aside.exists() and not target.exists():
                aside.replace(target)
            remove(partial)
            raise
        remove(aside)


def check_targets(*, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> None:
    """Refuse, before any work is done, targets that could not be written or that hold something of the user's.

    Raises StorageError for a file that is a folder, a folder that is a file, a parent that is no folder, and a folder
    with files in it that vitprune did not write.
    """
    for target in (*files, *folders):
        parent = next(folder for folder in target.absolute().parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise StorageError(f"{target}: cannot be written, because {parent} is no folder that may be written to")
    for target in files:
        if target.is_dir():
            raise StorageError(f"{target}: is a folder, but a file is to be written there; give another path")
    for target in folders:
        if target.exists() and not target.is_dir():
            raise StorageError(f"{target}: is a file, but a folder is to be written there; give another path")
        if target.is_dir():
            names = {path.name for path in target.iterdir()}
            if names and not names & MARKS:
                raise StorageError(
                    f"{target}: would be replaced as a whole, but holds files that vitprune did not write "
                    f"({', '.join(sorted(names)[:3])}); give another folder, or empty this one"
                )


@contextmanager
def _told_by_path(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{target}: cannot be written ({reason}); give another path, or make room") from error


def write_text(path: Path, content: str) -> None:
    """Write a text file, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(content, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinities are refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that vitprune wrote; CheckpointError if it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; run the stage that writes it first (dvc repro)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); delete it and run its stage again") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
