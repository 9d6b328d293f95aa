"""From the raw folder to packed data: decode, audit, decide which classes stay, cut the missing splits, write.

Nothing is written unless all of it succeeds, and the same source and params give the same bytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np

from vitprune.data.archived import open_archive
from vitprune.data.audit import REASONS, Verdict, audit
from vitprune.data.collection import Collection, Layout
from vitprune.data.decode import digest, to_square
from vitprune.data.manifest import Row, write_manifest
from vitprune.data.options import CleanOptions, DataOptions
from vitprune.data.packed import SPLITS, SplitContent, SplitName, write_packed
from vitprune.data.raw import read_source
from vitprune.data.sources.digits import open_digits
from vitprune.data.sources.fashion_mnist import open_fashion_mnist
from vitprune.data.splits import cut_stratified
from vitprune.data.spool import Spool, open_spool
from vitprune.errors import DataError
from vitprune.storage import atomic_folder

logger = logging.getLogger(__name__)

Metrics = dict[str, int | float | dict[str, int]]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What stays of a collection: the class folders in the order of the labels, and the images of each split."""

    verdicts: Sequence[Verdict]
    class_folders: tuple[str, ...]
    splits: dict[SplitName, np.ndarray]


def clean(
    raw: Path, out: Path, data: DataOptions, params: CleanOptions, on_progress: Callable[[int, int], None]
) -> Metrics:
    """Clean the raw folder into packed data at ``out``, with ``manifest.csv``, and count what happened.

    Raises DataError if the raw folder is missing or of another source, if its layout is not understood, if too many
    images had to be dropped, or if a class or a split is left without images.
    """
    collection = open_raw(raw, data)
    layout = collection.layout
    if len(layout.class_names) < 2:
        raise DataError(f"{raw}: classes {list(layout.class_names)}; there must be two or more to tell apart")
    with atomic_folder(out) as partial:
        shape = (data.channels, data.image_size, data.image_size)
        with open_spool(partial / "spool.bin", shape) as spool:
            digests = _decode_all(collection, spool, data.image_size, params.resize, on_progress)
            selection = select(layout, digests, params)
            labels = _labels(layout, selection.class_folders)
            names = layout.class_names
            write_packed(
                partial,
                {
                    split: SplitContent(blocks=spool.blocks(chosen), labels=labels[chosen])
                    for split, chosen in selection.splits.items()
                },
                class_names=[names[folder] for folder in selection.class_folders],
                class_folders=selection.class_folders,
                image_size=data.image_size,
                channels=data.channels,
            )
        write_manifest(partial, _rows(layout, selection))
    return _metrics(layout, selection)


def open_raw(raw: Path, data: DataOptions) -> Collection:
    """Open the raw folder that these params ask for; raises DataError if it is missing, broken or another one."""
    source = read_source(raw, data)
    match data.source:
        case "digits":
            return open_digits(raw, data.channels)
        case "fashion-mnist":
            return open_fashion_mnist(raw, data.channels)
        case "kaggle" | "folder" | "archive":
            return open_archive(raw / source.files[0].name, data.channels)
    assert_never(data.source)


def select(layout: Layout, digests: Sequence[bytes | None], params: CleanOptions) -> Selection:
    """Decide from the images' digests, None where undecodable, which stay, and in which split.

    Raises DataError as ``clean`` does.
    """
    verdicts = audit(layout.images, digests)
    trained = {
        image.folder
        for image, verdict in zip(layout.images, verdicts, strict=True)
        if verdict.kept and image.split == "train"
    }
    class_folders = tuple(folder for folder in layout.class_names if folder in trained)
    untrained = [folder for folder in layout.class_names if folder not in trained]
    if untrained:
        _refuse_or_log(untrained, params.empty_classes)
        without = Verdict(reason="class without training images")
        verdicts = [
            without if verdict.kept and image.folder not in trained else verdict
            for image, verdict in zip(layout.images, verdicts, strict=True)
        ]
    for folder in layout.empty_folders:
        logger.info("class folder %s holds no files and is left out", folder)
    if len(class_folders) < 2:
        raise DataError(f"classes with training images: {list(class_folders)}; there must be two or more to tell apart")
    _refuse_if_too_many_dropped(verdicts, params.max_dropped_fraction)
    splits = _splits(layout, verdicts, class_folders, params)
    return Selection(verdicts=verdicts, class_folders=class_folders, splits=splits)


def _decode_all(
    collection: Collection,
    spool: Spool,
    image_size: int,
    resize: Literal["crop", "stretch"],
    on_progress: Callable[[int, int], None],
) -> list[bytes | None]:
    total = len(collection.layout.images)
    digests: list[bytes | None] = [None] * total
    for done, (index, pixels) in enumerate(collection.read(), start=1):
        if pixels is not None:
            digests[index] = digest(pixels)
            spool.write(index, to_square(pixels, image_size, resize))
        on_progress(done, total)
    return digests


def _refuse_or_log(untrained: Sequence[str], empty_classes: Literal["error", "drop"]) -> None:
    named = ", ".join(untrained[:5]) + (f" and {len(untrained) - 5} more" if len(untrained) > 5 else "")
    if empty_classes == "error":
        raise DataError(
            f"no training image is left of class {named}: its files are no images, cannot be decoded, or stand in val "
            "or test only; mend them, or leave the class out with clean.empty_classes: drop"
        )
    logger.warning("no training image is left of class %s: left out with its images", named)


def _refuse_if_too_many_dropped(verdicts: Sequence[Verdict], most: float) -> None:
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
    dropped = reasons.total()
    if dropped > most * len(verdicts):
        reason, count = reasons.most_common(1)[0]
        raise DataError(
            f"{dropped} of {len(verdicts)} images ({dropped / len(verdicts):.1%}) would be dropped, most of them as "
            f"{reason} ({count}); mend the source, or raise clean.max_dropped_fraction ({most})"
        )


def _labels(layout: Layout, class_folders: Sequence[str]) -> np.ndarray:
    """The label of each image, -1 where its class is left out."""
    label_of = {folder: label for label, folder in enumerate(class_folders)}
    return np.array([label_of.get(image.folder, -1) for image in layout.images], np.int64)


def _splits(
    layout: Layout, verdicts: Sequence[Verdict], class_folders: Sequence[str], params: CleanOptions
) -> dict[SplitName, np.ndarray]:
    """Indices of the images of each split; a split that the source does not have is cut from train."""
    kept = {
        split: np.array(
            [i for i, image in enumerate(layout.images) if image.split == split and verdicts[i].kept], np.int64
        )
        for split in SPLITS
    }
    given = {image.split for image in layout.images}
    fractions: dict[SplitName, float] = {"val": params.val_fraction, "test": params.test_fraction}
    pool = kept["train"]
    train, val, test = cut_stratified(
        _labels(layout, class_folders)[pool],
        val_fraction=0 if "val" in given else fractions["val"],
        test_fraction=0 if "test" in given else fractions["test"],
        seed=params.seed,
    )
    splits: dict[SplitName, np.ndarray] = {
        "train": pool[train],
        "val": kept["val"] if "val" in given else pool[val],
        "test": kept["test"] if "test" in given else pool[test],
    }
    uses: dict[SplitName, str] = {"val": "choose checkpoints", "test": "report results"}
    for split, use in uses.items():
        if len(splits[split]) == 0:
            why = (
                f"all images of the source's {split} split were dropped"
                if split in given
                else f"the source has no {split} split, and clean.{split}_fraction ({fractions[split]}) of "
                f"{len(pool)} images is none; raise it"
            )
            raise DataError(f"no {split} images, which are needed to {use}: {why}")
    return splits


def _rows(layout: Layout, selection: Selection) -> list[Row]:
    split_of = {int(index): split for split, chosen in selection.splits.items() for index in chosen}
    rows = [Row(name=file.name, action="ignored", reason=file.reason) for file in layout.ignored]
    rows += [
        Row(name=f"{folder}/", folder=folder, action="ignored", reason="empty class") for folder in layout.empty_folders
    ]
    for index, (image, verdict) in enumerate(zip(layout.images, selection.verdicts, strict=True)):
        original = "" if verdict.duplicate_of is None else layout.images[verdict.duplicate_of].name
        rows.append(
            Row(
                name=image.name,
                split=split_of.get(index, image.split),
                folder=image.folder,
                action="kept" if verdict.kept else "dropped",
                reason=verdict.reason or "",
                duplicate_of=original,
            )
        )
    return rows


def _metrics(layout: Layout, selection: Selection) -> Metrics:
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
