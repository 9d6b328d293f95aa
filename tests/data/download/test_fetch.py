from pathlib import Path

import pytest

from tests.data.conftest import class_folders, fetch_raw, write_zip
from vitprune.errors import DataError
from vitprune.storage import read_json


def test_source_json_lists_the_files(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"a.txt": b"abc"})
    fetch_raw(tmp_path / "raw", path=str(archive))
    source = read_json(tmp_path / "raw/source.json")
    assert len(source["files"][0].pop("sha256")) == 64
    assert source == {
        "format_version": 1,
        "source": "archive",
        "kaggle_handle": None,
        "files": [{"name": "images.zip", "bytes": archive.stat().st_size}],
    }


def test_a_path_may_start_in_the_home_folder_or_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    write_zip(tmp_path / "images.zip", class_folders())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(("~/images.zip", "images.zip")):
        fetch_raw(tmp_path / f"raw{number}", path=path)
        assert (tmp_path / f"raw{number}/images.zip").is_file()


@pytest.mark.fault("data.path that does not exist", "one sentence names it")
@pytest.mark.parametrize("source", ["archive", "kaggle", "folder", "fashion-mnist"])
def test_a_path_that_does_not_exist_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"data\.path: nowhere/images does not exist"):
        fetch_raw(tmp_path / "raw", source=source, path="nowhere/images")


@pytest.mark.fault("a file where a folder is needed", "one sentence says what to set")
def test_a_file_where_a_folder_is_needed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.path: .*images\.zip is not a folder.*set data\.source to archive"):
        fetch_raw(tmp_path / "raw", source="folder", path=str(tmp_path / "images.zip"))


@pytest.mark.fault("a folder where an archive is needed", "one sentence says what to set")
@pytest.mark.parametrize("source", ["archive", "kaggle"])
def test_a_folder_where_an_archive_is_needed_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"data\.path: .* is a folder, not an archive; set data\.source to folder"):
        fetch_raw(tmp_path / "raw", source=source, path=str(tmp_path))
