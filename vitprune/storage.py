"""Files and folders that appear whole or not at all, and the JSON that goes into them.

A process may be killed at any moment. What it was writing then lies under a hidden ``.NAME.partial`` beside the
target, which the next writer of the same target removes; the target is either the old one or the complete new one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitprune.errors import CheckpointError


def partial_path(target: Path) -> Path:
    """The hidden sibling under which ``target`` is written until it is complete."""
    return target.parent / f".{target.name}.partial"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes ``target``, on an exception it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    _remove(partial)
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        _remove(partial)
        raise


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new empty folder; on success it replaces ``target``, on an exception it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    _remove(partial)
    partial.mkdir()
    try:
        yield partial
        # A folder cannot be replaced by a rename: the old one steps aside first.
        aside = target.parent / f".{target.name}.old.partial"
        _remove(aside)
        if target.exists():
            target.replace(aside)
        partial.replace(target)
        _remove(aside)
    except BaseException:
        _remove(partial)
        raise


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
