"""The files and folders below a folder of the user's."""

from __future__ import annotations

import logging
from pathlib import Path

from vitprune.data.raw.names import escaped
from vitprune.data.raw.system_files import is_system_name
from vitprune.errors import DataError

logger = logging.getLogger(__name__)


def shown(path: Path) -> str:
    """A path as it can be shown in one line."""
    return escaped(str(path))


def walk(root: Path) -> list[tuple[str, Path]]:
    """Files and folders below ``root`` with their names from there on, sorted by name.

    Hidden and system files are left out. Links are followed unless they lead back to a folder above them. Raises
    DataError for a folder that cannot be read.
    """
    entries: list[tuple[str, Path]] = []
    left_out: list[Path] = []
    # Each folder carries the real paths of the folders above it: following a link to one of them would never end.
    pending = [("", root, frozenset({root.resolve()}))]
    while pending:
        prefix, folder, above = pending.pop()
        for path, is_folder in _children(folder):
            name = f"{prefix}{path.name}"
            if is_system_name(path.name):
                left_out += [path] if is_folder else []
                continue
            if is_folder:
                real = path.resolve()
                if real in above:
                    logger.warning("%s leads back to %s and is left out", shown(path), shown(real))
                    continue
                pending.append((f"{name}/", path, above | {real}))
            entries.append((name, path))
    if left_out:
        logger.info("hidden or system folders are left out: %d, such as %s", len(left_out), shown(min(left_out)))
    return sorted(entries)


def _children(folder: Path) -> list[tuple[Path, bool]]:
    """Files and folders in a folder, and whether each is a folder."""
    children: list[tuple[Path, bool]] = []
    try:
        for path in sorted(folder.iterdir()):
            if path.is_dir() or path.is_file():
                children.append((path, path.is_dir()))
            elif not is_system_name(path.name):
                logger.warning("%s is neither a file nor a folder and is left out", shown(path))
    except OSError as error:
        raise DataError(f"{shown(folder)}: not readable ({error.strerror}); make it readable, or remove it") from error
    return children
