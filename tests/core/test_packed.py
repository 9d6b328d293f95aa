import json
from pathlib import Path

import numpy as np
import pytest

from vitprune.core.packed import PackedData, Split, load_packed
from vitprune.data.cleaning.packing import SplitContent, write_packed
from vitprune.errors import DataError


def content(count: int, seed: int, *, blocks: int = 1) -> tuple[np.ndarray, SplitContent]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return images, SplitContent(blocks=np.array_split(images, blocks), labels=np.arange(count) % 2)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write(tmp_path, content(6, 0)[1])
    return tmp_path


def write(folder: Path, train: SplitContent) -> None:
    write_packed(
        folder,
        {"train": train, "val": content(3, 1)[1], "test": content(2, 2)[1]},
        class_names=("cat", "dog"),
        class_folders=("n1", "n2"),
        image_size=4,
        channels=3,
    )


def test_what_was_written_is_loaded_memory_mapped(tmp_path: Path) -> None:
    images, train = content(7, 0, blocks=3)
    write(tmp_path, train)
    data = load_packed(tmp_path)
    assert isinstance(data, PackedData)
    assert isinstance(data.train, Split)
    assert isinstance(data.train.images, np.memmap)
    np.testing.assert_array_equal(data.train.images, images)
    np.testing.assert_array_equal(data.train.labels, [0, 1, 0, 1, 0, 1, 0])
    assert (data.train.labels.dtype, data.train.images.dtype) == (np.int64, np.uint8)
    assert [len(data.train), len(data.val), len(data.test)] == [7, 3, 2]
    assert (data.image_size, data.channels, data.num_classes, data.class_names) == (4, 3, 2, ("cat", "dog"))
    np.testing.assert_allclose(data.mean, (images / 255).mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(data.std, (images / 255).std(axis=(0, 2, 3)))


@pytest.mark.parametrize("name", ["dataset.json", "val_images.npy", "train_labels.npy"])
def test_a_missing_file_is_named_with_the_stage_that_writes_it(packed: Path, name: str) -> None:
    (packed / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: no such file; .*dvc repro"):
        load_packed(packed)


@pytest.mark.parametrize("name", ["dataset.json", "val_images.npy", "train_labels.npy"])
def test_a_file_cut_short_is_named(packed: Path, name: str) -> None:
    path = packed / name
    whole = path.read_bytes()
    for keep in (0, 20, 130):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=rf"{name}.*run "):
            load_packed(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "format version 9, expected 2"),
        (
            {"image_size": 8},
            r"train_images.npy: holds uint8 \(6, 3, 4, 4\), but dataset.json says uint8 \(6, 3, 8, 8\)",
        ),
        ({"images": {"train": 5, "val": 3, "test": 2}}, "train_images.npy: holds"),
        ({"class_names": ["cat"]}, "labels from 0 to 1, but dataset.json names 1 classes"),
        ({"mean": [0.5]}, "mean and std must be 3 numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "std above 0"),
        ({"channels": "x"}, "channels: "),
    ],
)
def test_files_that_do_not_go_together_are_refused(packed: Path, change: dict[str, object], message: str) -> None:
    path = packed / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        load_packed(packed)


def test_pickled_arrays_are_refused(packed: Path) -> None:
    np.save(packed / "val_labels.npy", np.array([{}, {}, {}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"val_labels\.npy: not readable"):
        load_packed(packed)
