"""Decide which images stay, and in which split.

Images that cannot be decoded and copies of other images are dropped. Of an image in two splits, the copy that would be
trained or validated on is dropped, so that test results are never reported on an image that was trained on.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from vitprune.core.packed import SPLITS, SplitName
from vitprune.data.cleaning.collection import ImageFile, Layout
from vitprune.data.cleaning.pixels import UnusableImage
from vitprune.data.options import CleanOptions
from vitprune.errors import DataError

logger = logging.getLogger(__name__)

Reason = Literal[
    "undecodable",
    "unknown pixel range",
    "too many pixels",
    "duplicate",
    "conflicting label",
    "also in val",
    "also in test",
    "near duplicate",
    "near duplicate with conflicting label",
    "near duplicate in val",
    "near duplicate in test",
    "class without training images",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why an image is dropped, and the index of the image that stays in its place; both are None if it is kept.

    ``detail`` says what is wrong with an image that cannot be used.
    """

    reason: Reason | None = None
    duplicate_of: int | None = None
    detail: str = ""

    @property
    def kept(self) -> bool:
        return self.reason is None


KEPT = Verdict()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A verdict on each image, the class folders that stay in the order of the labels, and the images of each split.

    ``labels`` ``(n,)`` are the labels of all images, -1 for a class that is left out. ``splits`` hold sorted indices.
    """

    verdicts: Sequence[Verdict]
    class_folders: tuple[str, ...]
    labels: np.ndarray
    splits: dict[SplitName, np.ndarray]


def select(layout: Layout, verdicts: Sequence[Verdict], params: CleanOptions) -> Selection:
    """Decide from the verdicts on the images which of them stay and in which split.

    Raises DataError if fewer than two classes have training images, if a class has none and ``params`` do not allow
    that, if too many images would be dropped, or if a split would be empty.
    """
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
        raise DataError(f"classes with training images: {list(class_folders)}; at least two are needed")
    _refuse_if_too_many_dropped(verdicts, params.max_dropped_fraction)
    label_of = {folder: label for label, folder in enumerate(class_folders)}
    labels = np.array([label_of.get(image.folder, -1) for image in layout.images], np.int64)
    splits = _assign_splits(layout, verdicts, labels, params)
    return Selection(verdicts=verdicts, class_folders=class_folders, labels=labels, splits=splits)


def audit(
    images: Sequence[ImageFile],
    digests: Sequence[bytes | None],
    faults: Mapping[int, UnusableImage] = MappingProxyType({}),
) -> list[Verdict]:
    """Judge every image by its digest, which is None if it cannot be used; ``faults`` say why.

    Within a split, the first of several equal images stays. The others are duplicates, or have a conflicting label if
    their class differs. Between splits, test takes precedence over val, and val over train.
    """
    first: dict[tuple[SplitName, bytes], int] = {}
    for index, (image, digest) in enumerate(zip(images, digests, strict=True)):
        if digest is not None:
            first.setdefault((image.split, digest), index)

    def judge(index: int) -> Verdict:
        image, digest = images[index], digests[index]
        if digest is None:
            fault = faults.get(index)
            return Verdict(reason=fault.reason, detail=fault.detail) if fault else Verdict(reason="undecodable")
        original = first[image.split, digest]
        if original != index:
            same_class = images[original].folder == image.folder
            return Verdict(reason="duplicate" if same_class else "conflicting label", duplicate_of=original)
        if image.split != "test" and ("test", digest) in first:
            return Verdict(reason="also in test", duplicate_of=first["test", digest])
        if image.split == "train" and ("val", digest) in first:
            return Verdict(reason="also in val", duplicate_of=first["val", digest])
        return KEPT

    return [judge(index) for index in range(len(images))]


def _refuse_or_log(untrained: Sequence[str], empty_classes: Literal["error", "drop"]) -> None:
    named = ", ".join(untrained[:5]) + (f" and {len(untrained) - 5} more" if len(untrained) > 5 else "")
    if empty_classes == "error":
        raise DataError(
            f"no training image is left of class {named}: its files are not images, cannot be decoded, or are in val "
            "or test only; repair them, or leave the class out with clean.empty_classes: drop"
        )
    logger.warning("no training image is left of class %s: left out with its images", named)


def _refuse_if_too_many_dropped(verdicts: Sequence[Verdict], limit: float) -> None:
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason is not None)
    dropped = reasons.total()
    if dropped > limit * len(verdicts):
        reason, count = reasons.most_common(1)[0]
        details = Counter(verdict.detail for verdict in verdicts if verdict.reason == reason and verdict.detail)
        example = f"; for example: {details.most_common(1)[0][0]}" if details else ""
        raise DataError(
            f"{dropped} of {len(verdicts)} images ({dropped / len(verdicts):.1%}) would be dropped, most of them as "
            f"{reason} ({count}){example}; repair the source, or raise clean.max_dropped_fraction ({limit})"
        )


def _assign_splits(
    layout: Layout, verdicts: Sequence[Verdict], labels: np.ndarray, params: CleanOptions
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
        labels[pool],
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


def cut_stratified(
    labels: np.ndarray, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut images with integer ``labels`` ``(n,)`` into train, val and test, class by class.

    Every class gives its fraction rounded up or down, so that the total is the rounded fraction of all images. A class
    gives less only to keep one image for training. Returns three sorted index arrays that together hold every index
    once.
    """
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    before = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # The running total is rounded, not each class, so that 200 classes of 3 images still give 15 % of all.
        val, test = (
            _round(fraction * (before + len(members))) - _round(fraction * before)
            for fraction in (val_fraction, test_fraction)
        )
        before += len(members)
        test = min(test, len(members) - 1)
        val = min(val, len(members) - 1 - test)
        # One generator per class: more images in one class leave the cut of the others unchanged.
        order = np.random.default_rng([seed, int(label)]).permutation(members)
        for part, chosen in zip(parts, np.split(order, [len(members) - val - test, len(members) - test]), strict=True):
            part.append(chosen)
    train, val_, test_ = (np.sort(np.concatenate([np.empty(0, np.int64), *part])) for part in parts)
    return train, val_, test_


def _round(value: float) -> int:
    # Python rounds halves to even, which would take one image too few from every second class.
    return math.floor(value + 0.5)
