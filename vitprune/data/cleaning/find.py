"""Find the image files that a user names, one by one or by their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitprune.data.cleaning.formats import EXTENSIONS
from vitprune.data.cleaning.kinds import START_BYTES, Kind, counted_endings, kind_of, warn_of_images_left_out
from vitprune.data.raw.tree import shown, walk
from vitprune.errors import DataError


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files among ``paths``, and all image files at any depth in the folders among them, sorted by name.

    Hidden and system files in folders are left out. Raises DataError for a path that does not exist or cannot be read,
    or if there is no image file at all.
    """
    files: list[Path] = []
    left_out: list[tuple[str, Kind]] = []
    for path in paths:
        if path.is_dir():
            kinds = [(file, _kind(file)) for _, file in walk(path) if not file.is_dir()]
            files += [file for file, kind in kinds if kind == "image"]
            left_out += [(shown(file), kind) for file, kind in kinds if kind not in ("image", "other")]
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{shown(path)}: no such file or folder")
    if not files:
        others = f"; there are {counted_endings(name for name, _ in left_out)}, not read" if left_out else ""
        raise DataError(
            f"no image files in {', '.join(map(shown, paths))} (of the kinds {', '.join(sorted(EXTENSIONS))}){others}"
        )
    warn_of_images_left_out(left_out)
    return files


def _kind(file: Path) -> Kind:
    kind = kind_of(file.name)
    if kind != "other":
        return kind
    try:
        with file.open("rb") as content:
            return kind_of(file.name, content.read(START_BYTES))
    except OSError:
        # It is left out either way.
        return kind
