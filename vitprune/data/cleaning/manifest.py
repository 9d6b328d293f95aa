"""What became of every file of a source: ``manifest.csv`` with a row for each, and the counts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from vitprune.core.packed import SPLITS
from vitprune.data.cleaning.collection import Layout
from vitprune.data.cleaning.selection import REASONS, Selection

MANIFEST_FILE = "manifest.csv"

Metrics = dict[str, int | float | dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file. ``split`` is where it went, or where it was if it is dropped. ``folder`` is the column ``class``."""

    name: str
    split: str = ""
    folder: str = ""
    action: Literal["kept", "dropped", "ignored"]
    reason: str = ""
    duplicate_of: str = ""


def write_manifest(folder: Path, layout: Layout, selection: Selection) -> None:
    """Write ``manifest.csv``, sorted by name, into ``folder``."""
    with (folder / MANIFEST_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow("class" if field.name == "folder" else field.name for field in fields(Row))
        writer.writerows(sorted(astuple(row) for row in _rows(layout, selection)))


def _rows(layout: Layout, selection: Selection) -> Iterable[Row]:
    for ignored in layout.ignored:
        yield Row(name=ignored.name, action="ignored", reason=ignored.reason)
    for folder in layout.empty_folders:
        yield Row(name=f"{folder}/", folder=folder, action="ignored", reason="empty class")
    split_of = {int(index): split for split, chosen in selection.splits.items() for index in chosen}
    for index, (image, verdict) in enumerate(zip(layout.images, selection.verdicts, strict=True)):
        yield Row(
            name=image.name,
            split=split_of.get(index, image.split),
            folder=image.folder,
            action="kept" if verdict.kept else "dropped",
            reason=verdict.reason or "",
            duplicate_of="" if verdict.duplicate_of is None else layout.images[verdict.duplicate_of].name,
        )


def count_files(layout: Layout, selection: Selection) -> Metrics:
    """Numbers of images found, kept, ignored and dropped for each reason, of classes, and of images in each split."""
    reasons = Counter(verdict.reason for verdict in selection.verdicts)
    found, kept = len(layout.images), reasons[None]
    return {
        "found": found,
        "kept": kept,
        "ignored": len(layout.ignored),
        "dropped_fraction": (found - kept) / found,
        "classes": len(selection.class_folders),
        "classes_left_out": len(layout.class_names) - len(selection.class_folders) + len(layout.empty_folders),
        "dropped": {reason.replace(" ", "_"): reasons[reason] for reason in REASONS},
        "images": {split: len(selection.splits[split]) for split in SPLITS},
    }
