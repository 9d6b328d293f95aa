"""What became of every file of a source: ``manifest.csv`` with a row for each, tables of doubts, and counts."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from vitprune.core.packed import SPLITS
from vitprune.data.cleaning.collection import Layout
from vitprune.data.cleaning.decoding import NOTES
from vitprune.data.cleaning.examine import Findings
from vitprune.data.cleaning.near_duplicates import NearPair
from vitprune.data.cleaning.quality import DOUBTS, MEASURES, find_doubtful
from vitprune.data.cleaning.selection import REASONS, Selection
from vitprune.errors import DataError

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.csv"
NEAR_DUPLICATES_FILE = "near_duplicates.csv"
QUALITY_FILE = "quality.csv"

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
    detail: str = ""


def write_manifest(folder: Path, layout: Layout, selection: Selection, findings: Findings) -> None:
    """Write ``manifest.csv``, sorted by name, into ``folder``."""
    names = ["class" if field.name == "folder" else field.name for field in fields(Row)]
    _write_csv(folder / MANIFEST_FILE, names, sorted(astuple(row) for row in _rows(layout, selection, findings)))


def kept_names(folder: Path) -> dict[str, list[str]]:
    """The names of the images of each split, in the order of the packed ones, from ``manifest.csv`` in ``folder``.

    Raises DataError if the file cannot be read.
    """
    path = folder / MANIFEST_FILE
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["action"] == "kept":
                    names[row["split"]].append(row["name"])
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(f"{path}: is not the table that clean writes ({error}); run the clean stage again") from error
    return names


def write_near_duplicates(folder: Path, layout: Layout, selection: Selection, pairs: Sequence[NearPair]) -> None:
    """Write ``near_duplicates.csv``, a row for each pair, into ``folder``."""
    split_of = _split_of(layout, selection)

    def cells(index: int) -> tuple[str, str, str]:
        return layout.images[index].name, split_of[index], layout.images[index].folder

    names = [f"{which}{column}" for which in ("original", "copy") for column in ("", "_split", "_class")]
    rows = [(*cells(pair.original), *cells(pair.copy), f"{pair.distance:.4f}") for pair in pairs]
    _write_csv(folder / NEAR_DUPLICATES_FILE, [*names, "distance"], rows)


def write_quality(folder: Path, layout: Layout, selection: Selection, findings: Findings) -> None:
    """Write ``quality.csv``, a row for each image that is kept although it is doubtful, into ``folder``."""
    split_of = _split_of(layout, selection)
    rows = []
    for index, kinds in sorted(_doubts(selection, findings).items()):
        image, measures = layout.images[index], findings.measures[index]
        rows.append(
            (image.name, split_of[index], image.folder, "; ".join(kinds), *(f"{value:.6g}" for value in measures))
        )
    _write_csv(folder / QUALITY_FILE, ["name", "split", "class", "doubts", *MEASURES], rows)


def _doubts(selection: Selection, findings: Findings) -> dict[int, list[str]]:
    """In what ways each doubtful image among those that are kept is so."""
    kept = np.concatenate([selection.splits[split] for split in SPLITS])
    doubts: dict[int, list[str]] = {}
    for kind, flags in find_doubtful(findings.measures[kept]).items():
        for index in kept[flags].tolist():
            doubts.setdefault(index, []).append(kind.replace("_", " "))
    return doubts


def _split_of(layout: Layout, selection: Selection) -> list[str]:
    """The split of each image: where it went, or where it was if it is dropped."""
    split_of: list[str] = [image.split for image in layout.images]
    for split, chosen in selection.splits.items():
        for index in chosen.tolist():
            split_of[index] = split
    return split_of


def _write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def _rows(layout: Layout, selection: Selection, findings: Findings) -> Iterable[Row]:
    for ignored in layout.ignored:
        yield Row(name=ignored.name, action="ignored", reason=ignored.reason)
    for folder in layout.empty_folders:
        yield Row(name=f"{folder}/", folder=folder, action="ignored", reason="empty class")
    split_of = _split_of(layout, selection)
    for index, (image, verdict) in enumerate(zip(layout.images, selection.verdicts, strict=True)):
        yield Row(
            name=image.name,
            split=split_of[index],
            folder=image.folder,
            action="kept" if verdict.kept else "dropped",
            reason=verdict.reason or "",
            duplicate_of="" if verdict.duplicate_of is None else layout.images[verdict.duplicate_of].name,
            detail=verdict.detail or "; ".join(findings.notes.get(index, ())),
        )


def count_files(layout: Layout, selection: Selection, findings: Findings, pairs: Sequence[NearPair]) -> Metrics:
    """Numbers of images found, kept, ignored and dropped for each reason, of classes, and of images in each split.

    Besides, the bit depth of images of 16 bits (0: there are none), and numbers of near duplicates and doubtful images.
    """
    reasons = Counter(verdict.reason for verdict in selection.verdicts)
    found, kept = len(layout.images), reasons[None]
    notes = Counter(note for noted in findings.notes.values() for note in noted)
    doubts = Counter(kind for kinds in _doubts(selection, findings).values() for kind in kinds)
    return {
        "found": found,
        "kept": kept,
        "ignored": len(layout.ignored),
        "dropped_fraction": (found - kept) / found,
        "classes": len(selection.class_folders),
        "classes_left_out": len(layout.class_names) - len(selection.class_folders) + len(layout.empty_folders),
        "dropped": {reason.replace(" ", "_"): reasons[reason] for reason in REASONS},
        "images": {split: len(selection.splits[split]) for split in SPLITS},
        "bit_depth": findings.bit_depth or 0,
        "notes": {note.replace(" ", "_"): notes[note] for note in NOTES},
        "near_duplicates": _count_pairs(layout, selection, pairs),
        "quality": {kind: doubts[kind.replace("_", " ")] for kind in DOUBTS},
    }


def _count_pairs(layout: Layout, selection: Selection, pairs: Sequence[NearPair]) -> dict[str, int]:
    split_of, folders = _split_of(layout, selection), [image.folder for image in layout.images]
    return {
        "within_a_split": sum(split_of[pair.original] == split_of[pair.copy] for pair in pairs),
        "across_splits": sum(split_of[pair.original] != split_of[pair.copy] for pair in pairs),
        "conflicting_labels": sum(folders[pair.original] != folders[pair.copy] for pair in pairs),
    }


def log_counts(counts: Metrics) -> None:
    """Say what is worth a look."""
    lines = {
        "notes": "images that are used in spite of: %s",
        "near_duplicates": f"near duplicates, listed in {NEAR_DUPLICATES_FILE}: %s",
        "quality": f"doubtful images, listed in {QUALITY_FILE}: %s",
    }
    for key, line in lines.items():
        found = counts[key]
        assert isinstance(found, dict)
        if any(found.values()):
            logger.info(line, ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items() if count))
