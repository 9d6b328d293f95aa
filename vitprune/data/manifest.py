"""``manifest.csv``: what became of every file of a source, one row each."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

FILE = "manifest.csv"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A file; ``split`` is where it went, or stood if it was dropped, ``folder`` names its class (column ``class``)."""

    name: str
    split: str = ""
    folder: str = ""
    action: Literal["kept", "dropped", "ignored"]
    reason: str = ""
    duplicate_of: str = ""


def write_manifest(folder: Path, rows: Iterable[Row]) -> None:
    """Write the rows sorted by name."""
    with (folder / FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow("class" if field.name == "folder" else field.name for field in fields(Row))
        writer.writerows(sorted(astuple(row) for row in rows))
