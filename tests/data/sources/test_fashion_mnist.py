import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitprune.commands.clean import clean
from vitprune.commands.download import download
from vitprune.data import load_packed
from vitprune.errors import DataError

INSTALLED = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
"""Where Debian's package dataset-fashion-mnist puts the files."""


def write_idx(path: Path, values: np.ndarray, *, kind: int = 8) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Fashion-MNIST in miniature: 40 training and 10 test images."""
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 10)):
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return folder


def test_the_four_files_become_packed_data(small: Path, tmp_path: Path, params_file) -> None:
    path = params_file(source="fashion-mnist", path=str(small), channels=1, image_size=28)
    download(path, tmp_path / "raw")
    clean(path, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")
    data = load_packed(tmp_path / "clean")
    assert [len(data.train), len(data.val), len(data.test)] == [34, 6, 10]
    assert data.class_names[9] == "Ankle boot"
    with gzip.open(small / "t10k-images-idx3-ubyte.gz") as file:
        expected = np.frombuffer(file.read(), np.uint8, offset=16).reshape(10, 1, 28, 28)
    np.testing.assert_array_equal(data.test.images, expected)
    assert data.test.labels.tolist() == list(range(10))


@pytest.mark.skipif(not INSTALLED.is_dir(), reason=f"{INSTALLED} is not there; FASHION_MNIST may name the folder")
def test_the_real_files_are_read(tmp_path: Path, params_file) -> None:
    path = params_file(source="fashion-mnist", path=str(INSTALLED), channels=1, image_size=28)
    download(path, tmp_path / "raw")
    clean(path, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")
    data = load_packed(tmp_path / "clean")
    assert [len(data.train), len(data.val), len(data.test)] == [51000, 9000, 10000]
    assert data.mean == pytest.approx((0.286,), abs=1e-3)
    assert data.std == pytest.approx((0.353,), abs=1e-3)


def test_a_missing_file_is_named(small: Path, tmp_path: Path, params_file) -> None:
    (small / "t10k-labels-idx1-ubyte.gz").unlink()
    path = params_file(source="fashion-mnist", path=str(small))
    with pytest.raises(DataError, match=r"data\.path: .* has no t10k-labels-idx1-ubyte\.gz"):
        download(path, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_broken_files_are_refused(small: Path, tmp_path: Path, params_file) -> None:
    path = params_file(source="fashion-mnist", path=str(small))
    file = small / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for content in (whole[:1000], b"", b"not gzip", gzip.compress(b"ab"), gzip.compress(gzip.decompress(whole)[:-5])):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: not a"):
            download(path, tmp_path / "raw")


def test_labels_that_do_not_fit_the_images_are_refused(small: Path, tmp_path: Path, params_file) -> None:
    path = params_file(source="fashion-mnist", path=str(small), channels=1)
    for labels in (np.zeros(39, np.uint8), np.full(40, 10, np.uint8)):
        write_idx(small / "train-labels-idx1-ubyte.gz", labels)
        download(path, tmp_path / "raw")
        with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: .* labels up to"):
            clean(path, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")


def test_without_network_the_way_out_is_named(tmp_path: Path, params_file) -> None:
    path = params_file(source="fashion-mnist", path=None)
    script = (
        "import sys; from pathlib import Path; from vitprune.commands.download import download; "
        "from vitprune.commands.terminal import report_errors\n"
        "with report_errors(): download(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    # Nothing listens at port 9: any address is out of reach, at once.
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path / "raw")],
        env=os.environ | proxy | {"VITPRUNE_CACHE": str(tmp_path / "cache"), "no_proxy": "", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "could not be downloaded" in done.stderr
    assert "set data.path to the folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "raw").exists()
