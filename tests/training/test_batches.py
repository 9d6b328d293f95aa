from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import random_split, tiny_config
from vitprune.core.packed import Split
from vitprune.errors import DataError
from vitprune.training import batches
from vitprune.training.batches import check_split, epoch_batches, place

CPU = torch.device("cpu")


def test_every_image_appears_once_in_an_epoch() -> None:
    parts = epoch_batches(23, 5, seed=0)
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert sorted(torch.cat(parts).tolist()) == list(range(23))


def test_a_last_batch_of_one_image_is_left_out() -> None:
    assert [len(part) for part in epoch_batches(21, 5, seed=0)] == [5, 5, 5, 5]


@pytest.mark.parametrize(("num_images", "batch_size", "lengths"), [(1, 5, [1]), (3, 1, [1, 1, 1]), (4, 8, [4])])
def test_batches_of_one_image_stay_where_there_are_no_others(
    num_images: int, batch_size: int, lengths: list[int]
) -> None:
    assert [len(part) for part in epoch_batches(num_images, batch_size, seed=0)] == lengths


def test_the_order_is_a_function_of_the_seed() -> None:
    orders = [torch.cat(epoch_batches(50, 8, seed=seed)).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_a_batch_has_the_images_and_labels_of_its_indices() -> None:
    split = random_split(10)
    images, labels = place(split, CPU).batch(torch.tensor([7, 2]))
    assert np.array_equal(images.numpy(), split.images[[7, 2]])
    assert np.array_equal(labels.numpy(), split.labels[[7, 2]])


def test_a_memory_mapped_split_is_read_batch_by_batch_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = random_split(10)
    np.save(tmp_path / "images.npy", split.images)
    mapped = Split(images=np.load(tmp_path / "images.npy", mmap_mode="r"), labels=split.labels)
    for limit in (0, 1 << 30):
        monkeypatch.setattr(batches, "RESIDENT_BYTES", limit)
        placed = place(mapped, CPU)
        assert isinstance(placed.images, torch.Tensor) == (limit > 0)
        images, _ = placed.batch(torch.tensor([3, 1]))
        images.zero_()
        assert np.array_equal(mapped.images, split.images)


def test_labels_that_the_model_does_not_know_are_refused() -> None:
    split = random_split(30, num_classes=9)
    with pytest.raises(DataError, match=r"the test labels run from \d to 8, but the model knows the classes 0 to 3"):
        check_split(split, tiny_config(), "test")


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 8, 8\).*the model takes uint8 of shape \(3, 16, 16\)"):
        check_split(random_split(4), tiny_config(in_channels=3, image_size=16), "training")


def test_images_that_are_not_bytes_are_refused() -> None:
    split = random_split(4)
    with pytest.raises(DataError, match="images are float32"):
        check_split(Split(images=split.images.astype(np.float32), labels=split.labels), tiny_config(), "training")


def test_labels_of_another_length_are_refused() -> None:
    split = random_split(4)
    with pytest.raises(DataError, match=r"has 4 images but labels of shape \(3,\)"):
        check_split(Split(images=split.images, labels=split.labels[:3]), tiny_config(), "training")
