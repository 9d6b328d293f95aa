from pathlib import Path

import pytest

from tests.data.conftest import data_params
from vitprune.data.raw import read_source, write_source
from vitprune.errors import DataError
from vitprune.storage import read_json


def test_source_json_lists_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"abc")
    written = write_source(tmp_path, data_params(), ["images.zip"])
    assert read_json(tmp_path / "source.json") == {
        "format_version": 1,
        "source": "archive",
        "kaggle_handle": None,
        "files": [
            {
                "name": "images.zip",
                "bytes": 3,
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            }
        ],
    }
    assert read_source(tmp_path, data_params()) == written


def test_a_raw_folder_of_another_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"abc")
    write_source(tmp_path, data_params(), ["images.zip"])
    with pytest.raises(DataError, match=r"holds 'archive', but data\.source is 'digits'; run the download stage again"):
        read_source(tmp_path, data_params(source="digits"))


def test_another_kaggle_data_set_is_refused(tmp_path: Path) -> None:
    ours = data_params(source="kaggle", path=None)
    (tmp_path / "images.zip").write_bytes(b"abc")
    write_source(tmp_path, ours, ["images.zip"])
    assert read_source(tmp_path, ours).kaggle_handle == "somebody/images"
    with pytest.raises(DataError, match="holds somebody/images, but the params ask for a/b"):
        read_source(tmp_path, data_params(source="kaggle", path=None, kaggle_handle="a/b"))
    with pytest.raises(DataError, match=r"holds somebody/images, but the params ask for by-hand\.zip"):
        read_source(tmp_path, data_params(source="kaggle", path="by-hand.zip"))


def test_missing_and_broken_raw_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source\.json: no such file.*vitprune download"):
        read_source(tmp_path, data_params())
    (tmp_path / "source.json").write_text("{}")
    with pytest.raises(DataError, match="run the download stage again"):
        read_source(tmp_path, data_params())


def test_files_that_changed_since_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"abc")
    write_source(tmp_path, data_params(), ["images.zip"])
    (tmp_path / "images.zip").write_bytes(b"abcd")
    with pytest.raises(DataError, match=r"images\.zip: 4 bytes, source\.json says 3"):
        read_source(tmp_path, data_params())
    (tmp_path / "images.zip").unlink()
    with pytest.raises(DataError, match=r"images\.zip: missing"):
        read_source(tmp_path, data_params())
