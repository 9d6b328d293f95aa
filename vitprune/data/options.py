"""The params of the sections ``data`` and ``clean``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from vitprune.data.raw.limits import ArchiveLimits
from vitprune.options import Fraction, Options, Positive, Resize, Seed, Share


class DataOptions(Options):
    """Where the images come from and the form they take."""

    source: Literal["digits", "fashion-mnist", "kaggle", "folder", "archive"]
    path: str | None
    kaggle_handle: str
    image_size: Positive
    channels: Literal[1, 3]

    @model_validator(mode="after")
    def _local_sources_need_a_path(self) -> DataOptions:
        if self.source in ("folder", "archive") and not self.path:
            raise ValueError(
                f"data.path is missing: with data.source {self.source!r} it names the {self.source} to read"
            )
        return self


class CleanOptions(Options):
    """How images are audited, resized and split."""

    resize: Resize
    val_fraction: Share
    test_fraction: Share
    seed: Seed
    max_dropped_fraction: Fraction
    empty_classes: Literal["error", "drop"]
    near_duplicates: Literal["report", "drop"]
    max_pixels: Positive
    max_members: Positive
    max_unpacked_gb: Positive
    max_compression_ratio: Positive

    @property
    def archive_limits(self) -> ArchiveLimits:
        """How much is read of an archive."""
        return ArchiveLimits(
            max_members=self.max_members,
            max_unpacked_bytes=self.max_unpacked_gb * 10**9,
            max_compression_ratio=self.max_compression_ratio,
        )

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> CleanOptions:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"clean.val_fraction ({self.val_fraction}) and clean.test_fraction ({self.test_fraction}) "
                "leave nothing to train on: their sum must be below 1"
            )
        return self


def made_with(data: DataOptions, params: CleanOptions) -> dict[str, Any]:
    """The params that packed data depend on, by their full names: those that the clean stage runs again for."""
    watched = data.model_dump(include={"source", "image_size", "channels"})
    return {f"data.{name}": value for name, value in watched.items()} | {
        f"clean.{name}": value for name, value in params.model_dump().items()
    }
