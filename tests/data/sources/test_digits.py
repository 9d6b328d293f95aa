from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vitprune.commands.clean import clean
from vitprune.commands.download import download
from vitprune.data import load_packed
from vitprune.data.sources.digits import open_digits
from vitprune.errors import DataError
from vitprune.storage import read_json, sha256_of


def test_digits_run_from_the_bundled_file_to_packed_data(tmp_path: Path, params_file) -> None:
    fractions = {"val_fraction": 0.15, "test_fraction": 0.25}
    params = params_file(source="digits", path=None, channels=1, clean=fractions)
    download(params, tmp_path / "raw")
    source = read_json(tmp_path / "raw/source.json")
    assert source["source"] == "digits"
    assert source["files"][0]["sha256"] == sha256_of(tmp_path / "raw/digits.csv.gz")
    clean(params, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")
    data = load_packed(tmp_path / "clean")
    assert data.class_names == tuple("0123456789")
    assert [len(data.train), len(data.val), len(data.test)] == [1078, 270, 449]
    assert (data.image_size, data.channels) == (8, 1)
    assert data.train.images.max() == 255


def test_digits_are_those_of_scikit_learn(tmp_path: Path, params_file) -> None:
    download(params_file(source="digits", path=None), tmp_path / "raw")
    digits = open_digits(tmp_path / "raw", 1)
    expected = load_digits()
    assert [image.folder for image in digits.layout.images] == [str(target) for target in expected.target]
    for index, pixels in digits.read():
        assert pixels is not None
        np.testing.assert_allclose(pixels[:, :, 0] / 255 * 16, expected.images[index], atol=0.05)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digits.csv.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match=r"digits\.csv\.gz: not readable"):
        open_digits(tmp_path, 1)
