from pathlib import Path

import pytest

from tests.data.conftest import class_folders, write_tar, write_zip
from vitprune.commands.download import download
from vitprune.errors import DataError
from vitprune.storage import read_json


@pytest.mark.parametrize("source", ["archive", "kaggle"])
def test_an_archive_is_kept_as_it_came(tmp_path: Path, params_file, source: str) -> None:
    archive = write_tar(tmp_path / "my images.tgz", class_folders(), "w:gz")
    download(params_file(source=source, path=str(archive)), tmp_path / "raw")
    assert (tmp_path / "raw/my_images.tgz").read_bytes() == archive.read_bytes()
    described = read_json(tmp_path / "raw/source.json")
    assert described["source"] == source
    assert described["files"][0]["name"] == "my_images.tgz"


def test_a_path_may_start_in_the_home_folder_or_the_working_directory(tmp_path: Path, params_file, monkeypatch) -> None:
    write_zip(tmp_path / "images.zip", class_folders())
    monkeypatch.setenv("HOME", str(tmp_path))
    home, relative = (params_file(source="archive", path="~/images.zip"), None)
    download(home, tmp_path / "raw")
    relative = params_file(source="archive", path="images.zip")
    monkeypatch.chdir(tmp_path)
    download(relative, tmp_path / "raw2")
    assert (tmp_path / "raw2/images.zip").is_file()


@pytest.mark.parametrize("source", ["archive", "kaggle", "folder", "fashion-mnist"])
def test_a_path_that_does_not_exist_is_named(tmp_path: Path, params_file, source: str) -> None:
    with pytest.raises(DataError, match=r"data\.path: nowhere/images does not exist"):
        download(params_file(source=source, path="nowhere/images"), tmp_path / "raw")


@pytest.mark.parametrize("source", ["archive", "kaggle"])
def test_a_folder_where_an_archive_is_needed_is_refused(tmp_path: Path, params_file, source: str) -> None:
    with pytest.raises(DataError, match=r"data\.path: .* is a folder, not an archive; set data\.source to folder"):
        download(params_file(source=source, path=str(tmp_path)), tmp_path / "raw")


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 cut"])
def test_a_failed_download_leaves_the_old_one_untouched(tmp_path: Path, params_file, content: bytes) -> None:
    archive = write_zip(tmp_path / "images.zip", class_folders())
    path = params_file(source="archive", path=str(archive))
    download(path, tmp_path / "raw")
    before = {file.name: file.read_bytes() for file in (tmp_path / "raw").iterdir()}
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip"):
        download(path, tmp_path / "raw")
    assert {file.name: file.read_bytes() for file in (tmp_path / "raw").iterdir()} == before
    assert not list(tmp_path.glob(".*partial"))


def test_an_unsafe_archive_is_refused_before_it_is_copied(tmp_path: Path, params_file) -> None:
    archive = write_zip(tmp_path / "images.zip", class_folders() | {"../../evil.png": b"x"})
    with pytest.raises(DataError, match=r"images\.zip: unsafe member '\.\./\.\./evil\.png'"):
        download(params_file(source="archive", path=str(archive)), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
