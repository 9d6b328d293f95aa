import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.data.conftest import clean_raw, data_params, fetch_raw, write_idx, write_zip
from vitprune.data.cleaning.sources import open_digits, read_source
from vitprune.data.options import DataOptions
from vitprune.errors import DataError
from vitprune.storage import MARK, read_json

FASHION_MNIST = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
"""Where Debian's package dataset-fashion-mnist puts the files."""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw folder of a small archive."""
    return write_raw(tmp_path)


def write_raw(folder: Path, **changes: Any) -> Path:
    archive = write_zip(folder / "images.zip", {"a.png": b"x"})
    fetch_raw(folder / "raw", path=str(archive), **changes)
    return folder / "raw"


def test_the_source_is_read_as_it_was_written(raw: Path) -> None:
    assert read_source(raw, data_params()).model_dump() == read_json(raw / "source.json")


def test_a_raw_folder_of_another_source_is_refused(raw: Path) -> None:
    with pytest.raises(DataError, match=r"holds 'archive', but data\.source is 'digits'; run the download stage again"):
        read_source(raw, data_params(source="digits"))


def test_another_kaggle_data_set_is_refused(raw: Path) -> None:
    path = raw / "source.json"
    path.write_text(path.read_text().replace('"archive"', '"kaggle"').replace("null", '"somebody/images"'))
    (raw / MARK).unlink()

    def wanted(**changes: Any) -> DataOptions:
        return data_params(source="kaggle", **changes)

    assert read_source(raw, wanted(path=None)).kaggle_handle == "somebody/images"
    with pytest.raises(DataError, match="holds somebody/images, but the params ask for a/b"):
        read_source(raw, wanted(path=None, kaggle_handle="a/b"))
    with pytest.raises(DataError, match=r"holds somebody/images, but the params ask for by-hand\.zip"):
        read_source(raw, wanted(path="by-hand.zip"))


def test_missing_and_broken_raw_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source\.json: no such file.*dvc repro download"):
        read_source(tmp_path, data_params())
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(DataError, match="run the download stage again"):
        read_source(tmp_path, data_params())


def test_files_that_changed_since_are_refused(raw: Path) -> None:
    with (raw / "images.zip").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"images\.zip: \d+ bytes, source\.json says \d+"):
        read_source(raw, data_params())
    (raw / "images.zip").unlink()
    with pytest.raises(DataError, match=r"images\.zip: missing"):
        read_source(raw, data_params())


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    fetch_raw(tmp_path / "raw", source="digits", path=None)
    digits = open_digits(tmp_path / "raw")
    expected = load_digits()
    assert [image.folder for image in digits.layout.images] == [str(target) for target in expected.target]
    for index, pixels in digits.read(range(1797)):
        assert isinstance(pixels, np.ndarray)
        np.testing.assert_allclose(pixels / 255 * 16, expected.images[index], atol=0.05)


def test_a_broken_file_of_digits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digits.csv.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match=r"digits\.csv\.gz: not readable"):
        open_digits(tmp_path)


def test_the_four_files_of_fashion_mnist_become_packed_data(small_fashion_mnist: Path, tmp_path: Path) -> None:
    data = fetch_raw(tmp_path / "raw", source="fashion-mnist", path=str(small_fashion_mnist), channels=1, image_size=28)
    packed = clean_raw(tmp_path, data, val_fraction=0.15)
    assert [len(packed.train), len(packed.val), len(packed.test)] == [34, 6, 10]
    assert packed.class_names[9] == "Ankle boot"
    with gzip.open(small_fashion_mnist / "t10k-images-idx3-ubyte.gz") as file:
        expected = np.frombuffer(file.read(), np.uint8, offset=16).reshape(10, 1, 28, 28)
    np.testing.assert_array_equal(packed.test.images, expected)
    assert packed.test.labels.tolist() == list(range(10))


@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason=f"{FASHION_MNIST} is not there; FASHION_MNIST may name the folder"
)
def test_the_real_files_of_fashion_mnist_are_read(tmp_path: Path) -> None:
    data = fetch_raw(tmp_path / "raw", source="fashion-mnist", path=str(FASHION_MNIST), channels=1, image_size=28)
    packed = clean_raw(tmp_path, data, val_fraction=0.15)
    assert [len(packed.train), len(packed.val), len(packed.test)] == [51000, 9000, 10000]
    assert packed.mean == pytest.approx((0.286,), abs=1e-3)
    assert packed.std == pytest.approx((0.353,), abs=1e-3)


def test_labels_that_do_not_fit_the_images_are_refused(small_fashion_mnist: Path, tmp_path: Path) -> None:
    for labels in (np.zeros(39, np.uint8), np.full(40, 10, np.uint8)):
        write_idx(small_fashion_mnist / "train-labels-idx1-ubyte.gz", labels)
        data = fetch_raw(tmp_path / "raw", source="fashion-mnist", path=str(small_fashion_mnist), channels=1)
        with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: .* labels up to"):
            clean_raw(tmp_path, data)
