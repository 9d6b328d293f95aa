"""Read what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vitprune.errors import CheckpointError


def read_json(path: Path) -> Any:
    """Read a JSON file that vitprune wrote; CheckpointError if it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; run the stage that writes it first (dvc repro)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); delete it and run its stage again") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
