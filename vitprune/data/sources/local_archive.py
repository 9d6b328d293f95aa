"""An archive on this machine, copied as it is once it has proved readable from end to end."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from vitprune.data.archive import check_archive
from vitprune.errors import DataError


def fetch(folder: Path, path: Path, on_progress: Callable[[int, int], None]) -> list[str]:
    """Check the archive ``path`` and copy it into ``folder``; returns its name. Raises DataError as reading it does."""
    if path.is_dir():
        raise DataError(f"data.path: {path} is a folder, not an archive; set data.source to folder")
    check_archive(path, on_progress)
    # The name is kept for those who look, without what a later tool might stumble over.
    name = re.sub(r"[^\w.\-]", "_", path.name).lstrip(".") or "archive"
    if name == "source.json":
        raise DataError(f"data.path: {path} has the name of vitprune's own file; rename it")
    shutil.copyfile(path, folder / name)
    return [name]
