import os
import tarfile
from pathlib import Path

import pytest

from tests.data.conftest import class_folders, image_bytes
from vitprune.commands.clean import clean
from vitprune.commands.download import download
from vitprune.data import load_packed
from vitprune.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes with hidden files and an empty class."""
    root = tmp_path / "images"
    for name, content in (class_folders() | {".hidden/1.png": b"", "cats/.DS_Store": b""}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "empty").mkdir()
    return root


def packed_names(raw: Path) -> list[str]:
    with tarfile.open(raw / "images.tar") as tar:
        return tar.getnames()


def test_a_folder_becomes_one_tar_and_then_packed_data(images: Path, tmp_path: Path, params_file) -> None:
    path = params_file(source="folder", path=str(images))
    download(path, tmp_path / "raw")
    written = sorted(file.name for file in (tmp_path / "raw").iterdir())
    assert written == [".made-by-vitprune", "images.tar", "source.json"]
    names = packed_names(tmp_path / "raw")
    assert names == sorted(names)
    assert {"cats", "dogs", "empty", "cats/00.png"} <= set(names)
    assert not [name for name in names if "hidden" in name or "DS_Store" in name]
    clean(path, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")
    assert load_packed(tmp_path / "clean").class_names == ("cats", "dogs")
    assert "empty/,,empty,ignored,empty class," in (tmp_path / "clean/manifest.csv").read_text()


def test_times_and_modes_leave_no_trace_in_the_tar(images: Path, tmp_path: Path, params_file) -> None:
    path = params_file(source="folder", path=str(images))
    download(path, tmp_path / "raw")
    before = (tmp_path / "raw/images.tar").read_bytes()
    for file in images.rglob("*"):
        os.utime(file, (1, 1))
    (images / "cats/00.png").chmod(0o600)
    moved = images.rename(tmp_path / "elsewhere")
    download(params_file(source="folder", path=str(moved)), tmp_path / "raw")
    assert (tmp_path / "raw/images.tar").read_bytes() == before


def test_links_are_followed_but_not_in_circles(images: Path, tmp_path: Path, params_file, caplog) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.png").write_bytes(image_bytes(500))
    (images / "cats/linked.png").symlink_to(outside / "far.png")
    (images / "birds").symlink_to(outside)
    (images / "cats/loop").symlink_to(images)
    (images / "dogs/gone.png").symlink_to(tmp_path / "nowhere")
    download(params_file(source="folder", path=str(images)), tmp_path / "raw")
    names = packed_names(tmp_path / "raw")
    assert {"cats/linked.png", "birds/far.png"} <= set(names)
    assert not [name for name in names if "loop" in name or "gone" in name]
    assert "leads back to" in caplog.text
    assert "gone.png" in caplog.text
    with tarfile.open(tmp_path / "raw/images.tar") as tar:
        assert all(member.isreg() or member.isdir() for member in tar)


def test_names_that_are_not_utf8_and_odd_ones_survive(images: Path, tmp_path: Path, params_file) -> None:
    names = [b"caf\xe9", b"T: shirt, red", "Übergröße".encode()]
    for number, name in enumerate(names):
        folder = images / os.fsdecode(name)
        folder.mkdir()
        for image in range(8):
            (folder / f"{image}.png").write_bytes(image_bytes(1000 + 10 * number + image))
    path = params_file(source="folder", path=str(images))
    download(path, tmp_path / "raw")
    clean(path, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")
    class_names = load_packed(tmp_path / "clean").class_names
    assert set(class_names) == {"cats", "dogs", "caf\\udce9", "T: shirt, red", "Übergröße"}


def test_a_folder_without_files_is_refused(tmp_path: Path, params_file) -> None:
    (tmp_path / "images/cats").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data\.path: .*images holds no files"):
        download(params_file(source="folder", path=str(tmp_path / "images")), tmp_path / "raw")


def test_a_folder_that_contains_the_output_is_refused(images: Path, params_file) -> None:
    with pytest.raises(DataError, match=r"data\.path: .* contains the folder to write"):
        download(params_file(source="folder", path=str(images)), images / "data/raw")


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path: Path, params_file) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.path: .*images\.zip is not a folder.*set data\.source to archive"):
        download(params_file(source="folder", path=str(tmp_path / "images.zip")), tmp_path / "raw")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(images: Path, tmp_path: Path, params_file) -> None:
    (images / "cats/00.png").chmod(0)
    with pytest.raises(DataError, match=r"cats/00\.png: not readable"):
        download(params_file(source="folder", path=str(images)), tmp_path / "raw")
