import os
import tarfile
from pathlib import Path

import pytest

from tests.data.conftest import class_folders, clean_raw, fetch_raw, image_bytes, write_tar, write_zip
from vitprune.errors import DataError
from vitprune.storage import read_json, sha256_of


def test_digits_are_the_file_that_scikit_learn_ships(tmp_path: Path) -> None:
    fetch_raw(tmp_path / "raw", source="digits", path=None)
    source = read_json(tmp_path / "raw/source.json")
    assert source["source"] == "digits"
    assert source["files"][0]["sha256"] == sha256_of(tmp_path / "raw/digits.csv.gz")


@pytest.mark.parametrize("source", ["archive", "kaggle"])
def test_an_archive_is_kept_as_it_came(tmp_path: Path, source: str) -> None:
    archive = write_tar(tmp_path / "my images.tgz", class_folders(), "w:gz")
    fetch_raw(tmp_path / "raw", source=source, path=str(archive))
    assert (tmp_path / "raw/my_images.tgz").read_bytes() == archive.read_bytes()
    described = read_json(tmp_path / "raw/source.json")
    assert (described["source"], described["kaggle_handle"]) == (source, None)
    assert described["files"][0]["name"] == "my_images.tgz"


@pytest.mark.fault("an archive to read that is broken", "it is refused, and the raw folder of the run before stays")
def test_a_broken_archive_leaves_the_old_raw_folder_untouched(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", class_folders())
    fetch_raw(tmp_path / "raw", path=str(archive))
    before = {file.name: file.read_bytes() for file in (tmp_path / "raw").iterdir()}
    for content in (b"no archive", b"PK\x03\x04 cut"):
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"images\.zip"):
            fetch_raw(tmp_path / "raw", path=str(archive))
        assert {file.name: file.read_bytes() for file in (tmp_path / "raw").iterdir()} == before
        assert not list(tmp_path.glob(".*partial"))


@pytest.mark.fault("an archive with a member that leads out of it", "it is refused before it is copied")
def test_an_unsafe_archive_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", class_folders() | {"../../evil.png": b"x"})
    with pytest.raises(DataError, match=r"images\.zip: unsafe member '\.\./\.\./evil\.png'"):
        fetch_raw(tmp_path / "raw", path=str(archive))
    assert not (tmp_path / "raw").exists()


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


def test_a_folder_becomes_one_tar_and_then_packed_data(images: Path, tmp_path: Path) -> None:
    data = fetch_raw(tmp_path / "raw", source="folder", path=str(images))
    assert sorted(file.name for file in (tmp_path / "raw").iterdir()) == [
        ".made-by-vitprune",
        "images.tar",
        "source.json",
    ]
    names = packed_names(tmp_path / "raw")
    assert names == sorted(names)
    assert {"cats", "dogs", "empty", "cats/00.png"} <= set(names)
    assert not [name for name in names if "hidden" in name or "DS_Store" in name]
    assert clean_raw(tmp_path, data).class_names == ("cats", "dogs")
    assert "empty/,,empty,ignored,empty class," in (tmp_path / "clean/manifest.csv").read_text()


def test_times_and_modes_leave_no_trace_in_the_tar(images: Path, tmp_path: Path) -> None:
    fetch_raw(tmp_path / "raw", source="folder", path=str(images))
    before = (tmp_path / "raw/images.tar").read_bytes()
    for file in images.rglob("*"):
        os.utime(file, (1, 1))
    (images / "cats/00.png").chmod(0o600)
    moved = images.rename(tmp_path / "elsewhere")
    fetch_raw(tmp_path / "raw", source="folder", path=str(moved))
    assert (tmp_path / "raw/images.tar").read_bytes() == before


@pytest.mark.fault("links in the source that lead in circles or nowhere", "the log names them, and the rest is read")
def test_links_are_followed_but_not_in_circles(images: Path, tmp_path: Path, caplog) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.png").write_bytes(image_bytes(500))
    (images / "cats/linked.png").symlink_to(outside / "far.png")
    (images / "birds").symlink_to(outside)
    (images / "cats/loop").symlink_to(images)
    (images / "dogs/gone.png").symlink_to(tmp_path / "nowhere")
    fetch_raw(tmp_path / "raw", source="folder", path=str(images))
    names = packed_names(tmp_path / "raw")
    assert {"cats/linked.png", "birds/far.png"} <= set(names)
    assert not [name for name in names if "loop" in name or "gone" in name]
    assert "leads back to" in caplog.text
    assert "gone.png" in caplog.text
    with tarfile.open(tmp_path / "raw/images.tar") as tar:
        assert all(member.isreg() or member.isdir() for member in tar)


@pytest.mark.fault("names that are not UTF-8", "they are shown with escapes, and their images are used")
def test_names_that_are_not_utf8_and_odd_ones_survive(images: Path, tmp_path: Path) -> None:
    names = [b"caf\xe9", b"T: shirt, red", "Übergröße".encode()]
    for number, name in enumerate(names):
        folder = images / os.fsdecode(name)
        folder.mkdir()
        for image in range(8):
            (folder / f"{image}.png").write_bytes(image_bytes(1000 + 10 * number + image))
    data = fetch_raw(tmp_path / "raw", source="folder", path=str(images))
    class_names = clean_raw(tmp_path, data).class_names
    assert set(class_names) == {"cats", "dogs", "caf\\udce9", "T: shirt, red", "Übergröße"}


@pytest.mark.fault("an empty folder as the source", "one sentence says so")
def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images/cats").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data\.path: .*images holds no files"):
        fetch_raw(tmp_path / "raw", source="folder", path=str(tmp_path / "images"))


@pytest.mark.fault("a source that contains the folder to write", "it is refused before anything is touched")
def test_a_folder_that_contains_the_output_is_refused(images: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: .* is or contains the folder to write"):
        fetch_raw(images / "data/raw", source="folder", path=str(images))


@pytest.mark.fault("a file in the source that cannot be read", "one sentence names it")
@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(images: Path, tmp_path: Path) -> None:
    (images / "cats/00.png").chmod(0)
    with pytest.raises(DataError, match=r"cats/00\.png: not readable"):
        fetch_raw(tmp_path / "raw", source="folder", path=str(images))
