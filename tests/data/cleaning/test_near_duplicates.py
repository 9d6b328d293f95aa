"""Images that differ by next to nothing, on photographs in miniature: smooth, with some texture."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import clean_raw, fetch_raw, write_zip
from vitprune.core.packed import PackedData
from vitprune.data.cleaning.collection import ImageFile
from vitprune.data.cleaning.near_duplicates import NearPair, drop_copies
from vitprune.data.cleaning.selection import KEPT, Verdict

SIZE = 64


def photograph(seed: int) -> Image.Image:
    """Blobs of colour with fine texture."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    texture = rng.normal(0, 5, (SIZE, SIZE, 3))
    return Image.fromarray(np.clip(np.asarray(blobs) + texture, 0, 255).astype(np.uint8))


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def one_grey_level(image: Image.Image) -> bytes:
    pixels = np.array(image)
    pixels[5, 7, 0] ^= 1
    return saved(Image.fromarray(pixels))


def brighter(image: Image.Image) -> bytes:
    return saved(image.point(lambda value: min(255, round(value * 1.1 + 4))))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "one grey level": one_grey_level,
    "JPEG of quality 90": lambda image: saved(image, "JPEG", quality=90),
    "JPEG of quality 60": lambda image: saved(image, "JPEG", quality=60),
    "half the size": lambda image: saved(image.resize((SIZE // 2, SIZE // 2), Image.Resampling.LANCZOS)),
    "twice the size": lambda image: saved(image.resize((2 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC)),
    "brighter": brighter,
}

SPLITS = {"train": range(8), "val": range(8, 11), "test": range(11, 14)}


@pytest.fixture
def cleaned(tmp_path: Path) -> Callable[..., PackedData]:
    """Clean a data set of 14 photographs of each of two classes in given splits, and more files."""

    def run(more: Mapping[str, bytes], **clean: Any) -> PackedData:
        files = {
            f"{split}/{name}/{number:02}.png": saved(photograph(100 * label + number))
            for split, numbers in SPLITS.items()
            for label, name in enumerate(("cats", "dogs"))
            for number in numbers
        }
        archive = write_zip(tmp_path / "images.zip", files | dict(more))
        data = fetch_raw(tmp_path / "raw", path=str(archive), image_size=32)
        return clean_raw(tmp_path, data, max_dropped_fraction=0.5, **clean)

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def found(folder: Path) -> set[tuple[str, str]]:
    """Original and copy of each pair in near_duplicates.csv."""
    return {(row["original"], row["copy"]) for row in rows_of(folder / "clean/near_duplicates.csv")}


def dropped(folder: Path) -> dict[str, str]:
    rows = rows_of(folder / "clean/manifest.csv")
    return {row["name"]: row["reason"] for row in rows if row["action"] == "dropped"}


@pytest.mark.fault("near duplicates across splits", "they are counted and listed, and dropped if the params say so")
@pytest.mark.parametrize("kind", COPIES)
def test_a_near_duplicate_of_a_test_image_is_listed_and_dropped_on_request(
    cleaned: Callable[..., PackedData], tmp_path: Path, kind: str
) -> None:
    original, copy = "test/cats/11.png", "train/cats/copy.png"
    more = {copy: COPIES[kind](photograph(11))}
    assert len(cleaned(more).train.labels) == 17
    assert found(tmp_path) == {(original, copy)}
    (row,) = rows_of(tmp_path / "clean/near_duplicates.csv")
    assert (row["original_split"], row["copy_split"], row["copy_class"]) == ("test", "train", "cats")
    assert dropped(tmp_path) == {}
    assert len(cleaned(more, near_duplicates="drop").train.labels) == 16
    assert dropped(tmp_path) == {copy: "near duplicate in test"}


def test_different_photographs_are_no_near_duplicates(cleaned: Callable[..., PackedData], tmp_path: Path) -> None:
    cleaned({f"train/cats/more{seed}.png": saved(photograph(1000 + seed)) for seed in range(100)})
    assert found(tmp_path) == set()


def test_images_without_contrast_are_no_near_duplicates_of_each_other(
    cleaned: Callable[..., PackedData], tmp_path: Path
) -> None:
    """Empty pages that the same lamp lit have nothing in common but its faint shade."""
    shade = np.tile(np.arange(SIZE) // 16, (SIZE, 1))
    pages = [np.repeat((shade + grey)[:, :, None], 3, axis=2).astype(np.uint8) for grey in (100, 150, 200)]
    cleaned({f"train/cats/page{number}.png": saved(Image.fromarray(page)) for number, page in enumerate(pages)})
    assert found(tmp_path) == set()


@pytest.mark.fault("the same image under two labels, saved twice", "the pair is said to conflict")
def test_a_near_duplicate_with_another_label_is_said_to_conflict(
    cleaned: Callable[..., PackedData], tmp_path: Path
) -> None:
    cleaned({"train/dogs/copy.jpg": COPIES["JPEG of quality 90"](photograph(3))}, near_duplicates="drop")
    assert dropped(tmp_path) == {"train/dogs/copy.jpg": "near duplicate with conflicting label"}
    (row,) = rows_of(tmp_path / "clean/near_duplicates.csv")
    assert (row["original_class"], row["copy_class"]) == ("cats", "dogs")


IMAGES = [
    ImageFile(name=str(position), split=split, folder=folder, position=position)
    for position, (split, folder) in enumerate(
        [("train", "a"), ("train", "a"), ("train", "b"), ("val", "a"), ("test", "b")]
    )
]


@pytest.mark.parametrize(
    ("original", "copy", "reason"),
    [
        (0, 1, "near duplicate"),
        (0, 2, "near duplicate with conflicting label"),
        (3, 0, "near duplicate in val"),
        (4, 0, "near duplicate in test"),
        (4, 3, "near duplicate in test"),
    ],
)
def test_the_reason_says_what_the_copy_would_have_spoilt(original: int, copy: int, reason: str) -> None:
    verdicts = drop_copies([NearPair(original=original, copy=copy, distance=0.01)], IMAGES, [KEPT] * 5)
    expected = [KEPT] * 5
    expected[copy] = Verdict(reason=reason, duplicate_of=original)  # type: ignore[arg-type]
    assert verdicts == expected


def test_of_a_chain_only_what_resembles_an_image_that_stays_is_dropped() -> None:
    """0 resembles 1 and 1 resembles 2, but 2 does not resemble 0: with 1 gone, 2 has no near duplicate."""
    chain = [NearPair(original=0, copy=1, distance=0.05), NearPair(original=1, copy=2, distance=0.05)]
    assert [verdict.kept for verdict in drop_copies(chain, IMAGES, [KEPT] * 5)] == [True, False, True, True, True]


def test_an_image_that_is_dropped_already_keeps_its_reason() -> None:
    verdicts = [KEPT, Verdict(reason="undecodable"), KEPT, KEPT, KEPT]
    assert drop_copies([NearPair(original=0, copy=1, distance=0.01)], IMAGES, verdicts) == verdicts
