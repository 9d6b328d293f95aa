"""Which images may not be used: those that cannot be decoded, and those that stand there twice.

An image that stands in two splits is taken from the one that is trained on, or validated on, never from the one that
the result is reported on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vitprune.data.collection import ImageFile
from vitprune.data.packed import SplitName

Reason = Literal[
    "undecodable",
    "duplicate",
    "conflicting label",
    "also in val",
    "also in test",
    "class without training images",
]
REASONS: tuple[Reason, ...] = (
    "undecodable",
    "duplicate",
    "conflicting label",
    "also in val",
    "also in test",
    "class without training images",
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why an image is dropped, and the index of the image that stays in its place; both None if it is kept."""

    reason: Reason | None = None
    duplicate_of: int | None = None

    @property
    def kept(self) -> bool:
        return self.reason is None


KEPT = Verdict()


def audit(images: Sequence[ImageFile], digests: Sequence[bytes | None]) -> list[Verdict]:
    """Judge every image by its digest, which is None where it could not be decoded.

    Inside a split the first of several equal images stays; the others are duplicates, or, with another class, have a
    conflicting label. Between splits test goes before val, and val before train.
    """
    first: dict[tuple[SplitName, bytes], int] = {}
    for index, (image, digest) in enumerate(zip(images, digests, strict=True)):
        if digest is not None:
            first.setdefault((image.split, digest), index)

    def judge(index: int) -> Verdict:
        image, digest = images[index], digests[index]
        if digest is None:
            return Verdict(reason="undecodable")
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
