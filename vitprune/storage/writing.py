"""Files and folders that appear whole or not at all.

Whatever is written lies in a hidden workplace beside its target until it is complete: ``.NAME.RANDOM.partial``, one
for each writer. Then it takes the target's place in one step, and what stood there goes with the workplace. A process
may be killed at any moment: the target is the old or the new one, and the next writer of the same target removes
workplaces whose process is gone, which is known by their locks.

Every folder gets a mark (``mark.py``). Only a folder with a mark is ever replaced.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vitprune.errors import StorageError, VitpruneError
from vitprune.storage.exchange import exchange
from vitprune.storage.mark import write_mark
from vitprune.storage.targets import check_targets

LOCK = ".vitprune.lock"
"""The file that makes a hidden folder a workplace of ours. A lock on it ends with the process that holds it."""
OLD = ".old"
"""Where the old target lies for a moment, in a workplace, if the system cannot exchange it for the new one."""

FULL_BYTES = 2**20
"""A disk with less room than this is full."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
"""Errors of a full or broken disk, which come without the name of a file."""


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
    with _blamed_on(target):
        check_targets(files=[target])
    with _workplace(target) as partial:
        with _blamed_on(target, partial):
            yield partial
        with _blamed_on(target):
            partial.replace(target)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new empty folder. On success it gets our mark and replaces ``target``, on an exception it is removed.

    Raises StorageError if ``target`` holds files that vitprune did not write, and otherwise as ``atomic_file``.
    """
    with _blamed_on(target):
        check_targets(folders=[target])
    with _workplace(target) as partial:
        with _blamed_on(target):
            partial.mkdir()
        with _blamed_on(target, partial):
            yield partial
        with _blamed_on(target):
            write_mark(partial)
            # It may have been filled while the new one was being written.
            check_targets(folders=[target])
            _put_in_place(partial, target)


def _put_in_place(partial: Path, target: Path) -> None:
    while True:
        with suppress(FileNotFoundError):
            if exchange(partial, target):
                return
            # Not in one step: if the process is killed between the two, the next writer puts the old one back.
            old = partial.parent / OLD
            remove(old)
            old.mkdir()
            target.replace(old / target.name)
        try:
            partial.replace(target)
        except OSError as error:
            # Another writer was faster: its folder is the old one now.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """Yield a free path for the new ``target`` in a hidden folder beside it, which is removed in the end."""
    with _blamed_on(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Names of files have 255 bytes at most.
        prefix = f".{target.name[:40]}."
        for left in target.parent.glob(f"{_literal(prefix)}*.partial"):
            _remove_if_left(left)
        folder, lock = _locked_folder(target.parent, prefix)
    try:
        yield folder / target.name
    finally:
        with suppress(OSError):
            _clear(folder)
        lock.release()


def _literal(name: str) -> str:
    """A pattern for ``glob`` that matches ``name`` alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=parent))
        lock = FileLock(folder / LOCK, timeout=0)
        # Between the two lines another writer may have taken the folder for one that was left.
        with suppress(Timeout, FileNotFoundError):
            lock.acquire()
            if (folder / LOCK).exists():
                return folder, lock


def _remove_if_left(folder: Path) -> None:
    """Remove a workplace whose process is gone; nothing else has our lock in it, or is empty."""
    with suppress(Timeout, OSError):
        if (folder / LOCK).is_file():
            with FileLock(folder / LOCK, timeout=0):
                _clear(folder)
        else:
            folder.rmdir()


def _clear(folder: Path) -> None:
    """Put back what a workplace took away, and remove it: its lock last, by which it is known as ours."""
    for old in (folder / OLD).glob("*"):
        if not (folder.parent / old.name).exists():
            old.replace(folder.parent / old.name)
    for path in folder.iterdir():
        if path.name != LOCK:
            remove(path)
    shutil.rmtree(folder)


@contextmanager
def _blamed_on(target: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file at fault.

    While the caller writes ``partial``, the target is at fault only if the error names a file of ``partial``, or names
    none and the disk is full or broken. A file within a folder that is written is named as it would be in the target.
    """
    try:
        yield
    except StorageError as error:
        if partial is None or str(partial) not in str(error):
            raise
        raise StorageError(str(error).replace(str(partial), str(target))) from error
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
        # Libraries that write files themselves report a full disk by errors of their own; in Rust these have a number.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if partial is None or not (_is_full(partial) or (number and int(number[1]) in _NO_ROOM)):
            raise
        reason = os.strerror(int(number[1])) if number else "the disk is full"
        raise StorageError(f"{target}: cannot be written ({reason}); give another path, or make room") from error


def _is_full(partial: Path) -> bool:
    return shutil.disk_usage(partial.parent).free < FULL_BYTES


def write_text(path: Path, content: str) -> None:
    """Write a text file, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(content, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinities are refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
