import urllib.request
from pathlib import Path

import pytest

from tests.data.conftest import fetch_raw
from vitprune.errors import DataError, DownloadError


@pytest.mark.fault("a missing file of Fashion-MNIST", "one sentence names it, and nothing is kept")
def test_a_missing_file_is_named(small_fashion_mnist: Path, tmp_path: Path) -> None:
    (small_fashion_mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"data\.path: .* has no t10k-labels-idx1-ubyte\.gz"):
        fetch_raw(tmp_path / "raw", source="fashion-mnist", path=str(small_fashion_mnist))
    assert not (tmp_path / "raw").exists()


@pytest.mark.fault("a broken file of Fashion-MNIST", "one sentence names it, and nothing is kept")
def test_a_broken_file_is_refused_before_it_is_kept(small_fashion_mnist: Path, tmp_path: Path) -> None:
    file = small_fashion_mnist / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: not a gzipped idx file.*set data\.path"):
        fetch_raw(tmp_path / "raw", source="fashion-mnist", path=str(small_fashion_mnist))
    assert not (tmp_path / "raw").exists()


@pytest.mark.fault("no network for Fashion-MNIST", "one sentence says how to get the files by hand")
def test_without_network_the_error_says_what_else_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens at port 9: any address is unreachable at once. urllib keeps its first opener and its proxies.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("VITPRUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DownloadError, match=r"could not be downloaded .*set data\.path to the folder"):
        fetch_raw(tmp_path / "raw", source="fashion-mnist", path=None)
    assert not (tmp_path / "raw").exists()
