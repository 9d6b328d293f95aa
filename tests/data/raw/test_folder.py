import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import write_idx
from vitprune.data.raw.folder import read_idx
from vitprune.errors import DataError


def test_idx_files_are_read(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    read = read_idx(write_idx(tmp_path / "images.gz", images), "images")
    np.testing.assert_array_equal(read, images)
    assert read.dtype == np.uint8
    labels = read_idx(write_idx(tmp_path / "labels.gz", np.array([3, 250], np.uint8)), "labels")
    assert (labels.tolist(), labels.dtype) == ([3, 250], np.int64)


def test_files_that_are_not_idx_files_are_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "images.gz", np.zeros((40, 28, 28), np.uint8))
    whole = path.read_bytes()
    unpacked = gzip.decompress(whole)
    broken = [b"", b"not gzip", whole[:50], whole[:-4], whole[:60] + b"?" * 9 + whole[69:]]
    broken += [gzip.compress(content) for content in (b"", b"ab", unpacked[:4], unpacked[:11], unpacked[:16])]
    broken += [gzip.compress(content) for content in (unpacked[:-5], unpacked + b"more", b"text" * 20)]
    # Kinds and numbers of dimensions that do not exist.
    broken += [
        gzip.compress(unpacked[:2] + header + unpacked[4:]) for header in (b"\x0a\x03", b"\x08\x00", b"\x08\x09")
    ]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"images\.gz: not a gzipped idx file of images \(.+\); get the four files"):
            read_idx(path, "images")


def test_other_dimensions_or_types_are_refused(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "images.gz", np.zeros((2, 3, 4), np.uint8))
    labels = write_idx(tmp_path / "labels.gz", np.zeros(5, np.uint8))
    floats = write_idx(tmp_path / "floats.gz", np.zeros((2, 3, 4), ">f4"), kind=13)
    with pytest.raises(DataError, match=r"labels\.gz: not a gzipped idx file of images .*3 dimension instead of 1"):
        read_idx(labels, "images")
    with pytest.raises(DataError, match=r"images\.gz: not a gzipped idx file of labels .*1 dimension instead of 3"):
        read_idx(images, "labels")
    with pytest.raises(DataError, match=r"floats\.gz: not a gzipped idx file of images .*uint8"):
        read_idx(floats, "images")
