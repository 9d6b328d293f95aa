"""Each kind of doubt, on an image that has it and on one that does not."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cleaning.image_files import saved
from tests.data.conftest import class_folders, clean_raw, fetch_raw, image_bytes, write_zip
from vitprune.data.cleaning.quality import DOUBTS, find_doubtful, measure

RNG = np.random.default_rng(0)


def noise(low: int, high: int, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    return RNG.integers(low, high, (*shape, 3), dtype=np.uint8)


def smooth(shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    """A gradient over all grey levels, without an edge."""
    row = np.linspace(0, 255, shape[1])
    return np.repeat(np.tile(row, (shape[0], 1))[:, :, None], 3, axis=2).astype(np.uint8)


USUAL = noise(0, 256)
IMAGES = {
    "dark": noise(0, 60),
    "bright": noise(245, 256),
    "low_information": np.where(np.arange(64 * 64 * 3).reshape(64, 64, 3) < 20, 255, 100).astype(np.uint8),
    "blurry": smooth(),
    "odd_aspect_ratio": noise(0, 256, (40, 160)),
    "odd_size": noise(0, 256, (400, 400)),
}


def doubts(image: np.ndarray) -> set[str]:
    """What is doubtful about an image among nine usual ones."""
    measures = np.stack([measure(image), *[measure(USUAL)] * 9])
    found = find_doubtful(measures)
    assert set(found) == set(DOUBTS)
    assert not any(flags[1:].any() for flags in found.values())
    return {kind for kind, flags in found.items() if flags[0]}


@pytest.mark.fault(
    "blurry, dark, nearly empty or oddly shaped images", "they are counted and listed, and never dropped"
)
@pytest.mark.parametrize("kind", DOUBTS)
def test_each_doubt_is_found(kind: str) -> None:
    assert kind in doubts(IMAGES[kind])


def test_a_usual_image_is_not_doubtful() -> None:
    assert doubts(noise(0, 256)) == set()


def test_a_grey_image_is_measured_as_a_coloured_one_of_the_same_pixels() -> None:
    grey = RNG.integers(0, 256, (20, 30, 1), dtype=np.uint8)
    np.testing.assert_allclose(measure(grey), measure(np.repeat(grey, 3, axis=2)), rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 1)])
def test_an_image_of_a_few_pixels_has_measures(size: tuple[int, int]) -> None:
    measures = measure(noise(0, 256, size))
    assert np.isfinite(measures).all()


def test_small_images_are_not_all_low_in_information() -> None:
    """64 pixels cannot have more than 6 bits each, so that six levels, or 2.6 bits, are not few."""
    digit = (np.arange(64) % 6 * 50).astype(np.uint8).reshape(8, 8, 1)
    assert "low_information" not in {kind for kind, flags in find_doubtful(measure(digit)[None]).items() if flags[0]}
    nearly_empty = np.zeros((8, 8, 1), np.uint8)
    nearly_empty[4, 4] = 255
    assert find_doubtful(measure(nearly_empty)[None])["low_information"][0]


def test_no_images_are_not_doubtful() -> None:
    assert not any(flags.size for flags in find_doubtful(np.zeros((0, 6), np.float32)).values())


def test_doubtful_images_are_kept_counted_and_listed(tmp_path: Path) -> None:
    files = class_folders() | {
        f"cats/{kind}.png": saved(Image.fromarray(image)) for kind, image in IMAGES.items() if kind != "odd_size"
    }
    files["cats/odd_size.png"] = image_bytes(999, size=(200, 200))
    archive = write_zip(tmp_path / "images.zip", files)
    clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(archive)), max_dropped_fraction=0)
    with (tmp_path / "clean/quality.csv").open(newline="") as file:
        listed = {row["name"]: row for row in csv.DictReader(file)}
    for kind in DOUBTS:
        assert kind.replace("_", " ") in listed[f"cats/{kind}.png"]["doubts"].split("; ")
    assert not any(name.startswith("dogs/") for name in listed)
    assert listed["cats/odd_size.png"]["width"] == "200"
    counts = json.loads((tmp_path / "clean.json").read_text())
    assert counts["kept"] == counts["found"] == len(files)
    assert counts["quality"]["dark"] == sum("dark" in row["doubts"].split("; ") for row in listed.values())
