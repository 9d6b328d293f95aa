"""Files and folders that appear whole or not at all, and the JSON that goes into them.

A process may be killed at any moment. What it was writing then lies under a hidden ``.NAME.partial`` beside the
target, which the next writer of the same target removes. The target is either the old one or the complete new one.

Every folder that is written here holds ``.made-by-vitprune``. Only a folder with this mark is ever replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitprune.errors import CheckpointError, StorageError, VitpruneError

MARK = ".made-by-vitprune"
"""The file that marks a folder as ours. Its content never changes, so that equal results have equal hashes."""
MARK_CONTENT = "vitprune wrote this folder and replaces it as a whole. Keep no files of your own in it.\n"

FULL_BYTES = 2**20
"""A disk with less room than this is full."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
"""Errors of a full or broken disk, which come without the name of a file."""

_SPLIT_FILES = {f"{split}_{array}.npy" for split in ("train", "val", "test") for array in ("images", "labels")}
_EARLIER_FOLDERS: dict[str, tuple[set[str], set[str]]] = {
    "config.json": ({"format", "model", "preprocessing", "class_names"}, {"model.safetensors"}),
    "circuit.json": ({"format", "method", "ablation", "graph", "kept"}, {"trace.csv", "ablation.safetensors"}),
    "round.json": ({"key", "figures"}, set()),
    "dataset.json": ({"format_version", "class_names", "class_folders"}, {"manifest.csv", *_SPLIT_FILES}),
    "source.json": ({"format_version", "source", "kaggle_handle", "files"}, set()),
}
"""What versions before the mark wrote: the file that describes a folder, keys in it, and the files beside it."""


def partial_path(target: Path) -> Path:
    """The hidden sibling under which ``target`` is written until it is complete."""
    return target.parent / f".{target.name}.partial"


def remove(path: Path) -> None:
    """Delete a file, or a folder with everything in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to. On success it becomes ``target``, on an exception it is removed.

    Raises StorageError if the system does not let ``target`` be written. An OSError of another file becomes a
    StorageError that names that file; an OSError of no file at all passes unchanged.
    """
    partial = partial_path(target)
    with _blamed_on(target):
        check_targets(files=[target])
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
    try:
        with _blamed_on(target, partial):
            yield partial
        with _blamed_on(target):
            partial.replace(target)
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new empty folder. On success it gets our mark and replaces ``target``, on an exception it is removed.

    A folder cannot be replaced in one step: the old one steps aside first. If the process is killed just then, the
    next writer puts it back. Raises StorageError if ``target`` holds files that vitprune did not write, and otherwise
    as ``atomic_file``.
    """
    partial, aside = partial_path(target), target.parent / f".{target.name}.old.partial"
    with _blamed_on(target):
        check_targets(folders=[target])
        target.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists() and not target.exists():
            aside.replace(target)
        remove(partial)
        remove(aside)
        partial.mkdir()
    try:
        with _blamed_on(target, partial):
            yield partial
        with _blamed_on(target):
            (partial / MARK).write_text(MARK_CONTENT, "utf-8")
            # It may have been filled while the new one was being written.
            check_targets(folders=[target])
            if target.exists():
                target.replace(aside)
            partial.replace(target)
    except BaseException:
        with suppress(OSError):
            if aside.exists() and not target.exists():
                aside.replace(target)
            remove(partial)
        raise
    with _blamed_on(target):
        remove(aside)


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
    with _blamed_on(folder):
        names = {path.name for path in folder.iterdir()}
    if names and MARK not in names and not _is_of_earlier_version(folder, names):
        raise StorageError(
            f"{folder}: would be replaced as a whole, but holds files that vitprune did not write "
            f"({', '.join(sorted(names)[:3])}); give another folder, or empty this one"
        )


def _is_of_earlier_version(folder: Path, names: set[str]) -> bool:
    """Whether a folder without our mark holds exactly what a version before the mark wrote, and nothing else."""
    return any(_is_kind(folder, names, description, *kind) for description, kind in _EARLIER_FOLDERS.items())


def _is_kind(folder: Path, names: set[str], description: str, keys: set[str], others: set[str]) -> bool:
    try:
        content = read_json(folder / description) if description in names else {}
        # A raw folder lists the files that it came with.
        came = {file["name"] for file in content["files"]} if "files" in keys else set()
        has_keys = keys <= content.keys()
    except (CheckpointError, AttributeError, KeyError, TypeError):
        return False
    expected = {description, *others, *came}
    model = folder / "model"
    if description in ("circuit.json", "round.json") and model.is_dir():
        expected.add("model")
        if not _is_of_earlier_version(model, {path.name for path in model.iterdir()}):
            return False
    return has_keys and names == expected


@contextmanager
def _blamed_on(target: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file at fault.

    While the caller writes ``partial``, the target is at fault only if the error names a file of ``partial``, or names
    none and the disk is full or broken.
    """
    try:
        yield
    except VitpruneError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        named = None if isinstance(error.filename, int | None) else Path(os.fsdecode(error.filename))
        if partial is not None:
            if named is None and error.errno not in _NO_ROOM and not _is_full(partial):
                raise
            if named is not None and not named.absolute().is_relative_to(partial.absolute()):
                raise StorageError(f"{named}: cannot be read or written ({reason})") from error
        raise StorageError(f"{target}: cannot be written ({reason}); give another path, or make room") from error
    except Exception as error:
        # Libraries that write files themselves report a full disk by errors of their own.
        if partial is None or not _is_full(partial):
            raise
        raise StorageError(
            f"{target}: cannot be written (the disk is full); make room, or give another path"
        ) from error


def _is_full(partial: Path) -> bool:
    return shutil.disk_usage(partial.parent).free < FULL_BYTES


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
