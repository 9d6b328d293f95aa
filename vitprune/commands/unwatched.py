"""Files that params name and DVC does not watch: what they were when a stage read them, and whether they changed.

A path that may be null cannot stand under ``deps`` in ``dvc.yaml`` (docs/decisions/0017-files-that-params-name.md).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from vitprune.errors import CheckpointError
from vitprune.storage import read_json, sha256_of, write_json

logger = logging.getLogger(__name__)

UNWATCHED = "unwatched.json"
"""The file in a stage's folder with the digests of what it was made from."""


def write_unwatched(folder: Path, stage: str, named: Mapping[str, str | None]) -> None:
    """Write down what the files were that a stage made ``folder`` from, by the params that name them, if any do."""
    found = {
        key: {"path": name, "sha256": digest} for key, name in named.items() if name and (digest := _digest(Path(name)))
    }
    for key, source in found.items():
        logger.info(
            "%s: DVC does not watch %s; when it has changed, run dvc repro --force %s, or name it under the deps of "
            "%s in dvc.yaml",
            key,
            source["path"],
            stage,
            stage,
        )
    if found:
        write_json(folder / UNWATCHED, {"stage": stage, "files": found})


def warn_of_changes(folder: Path) -> None:
    """Say in one warning which files have changed since ``folder`` was made from them."""
    if not (folder / UNWATCHED).exists():
        return
    try:
        content = read_json(folder / UNWATCHED)
        stage = content["stage"]
        changed = [
            f"{key} ({source['path']})"
            for key, source in content["files"].items()
            if _digest(Path(source["path"])) not in (source["sha256"], None)
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / UNWATCHED}: not what vitprune wrote ({error!r}); make it again") from None
    if changed:
        logger.warning(
            "%s: was made from %s as it was; it has changed since: run dvc repro --force %s to make it from that now",
            folder,
            " and ".join(changed),
            stage,
        )


def _digest(path: Path) -> str | None:
    """A digest of a file, or of all files in a folder with their names; None if there is nothing."""
    path = path.expanduser()
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
