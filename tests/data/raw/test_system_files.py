"""What systems leave among the user's files is no data: not in archives, not in folders, not in a prediction."""

import csv
from pathlib import Path

import pytest

from tests.data.conftest import class_folders, clean_raw, fetch_raw, image_bytes, write_tar, write_zip
from vitprune.data.cleaning.find import find_images
from vitprune.data.raw.system_files import is_system_path

IN_CLASSES = [
    "cats/@eaDir/00.png/SYNOPHOTO_THUMB_M.jpg",
    "cats/.thumbnails/00.png",
    "cats/.ipynb_checkpoints/00-checkpoint.png",
    "cats/._00.png",
    "cats/.@__thumb/00.png",
    "dogs/Thumbs.db",
    "dogs/ehthumbs.db",
    "dogs/desktop.ini",
    "dogs/.DS_Store",
    "dogs/00.png@SynoEAStream",
]
BESIDE_CLASSES = [
    "$RECYCLE.BIN/S-1-5-21/$R1.png",
    "System Volume Information/1.png",
    "lost+found/#123.png",
    ".Trash-1000/files/1.png",
    "#recycle/1.png",
    "@Recycle/1.png",
    "__MACOSX/cats/._00.png",
]
LEFT_OUT = "they are never images, never classes and never empty classes"


def files() -> dict[str, bytes]:
    """Two classes, and what systems leave: all of it real images."""
    return class_folders() | {
        name: image_bytes(9000 + number, size=(6, 6)) for number, name in enumerate(IN_CLASSES + BESIDE_CLASSES)
    }


def write_folder(folder: Path) -> Path:
    for name, content in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "cats/@eaDir/empty").mkdir()
    (folder / "LOST.DIR").mkdir()
    return folder


@pytest.mark.fault("thumbnails, bins and other files of systems (@eaDir, $RECYCLE.BIN, Thumbs.db)", LEFT_OUT)
@pytest.mark.parametrize("source", ["zip", "tar", "folder"])
def test_files_of_systems_are_no_data(tmp_path: Path, source: str) -> None:
    entries: dict[str, bytes | str | None] = {**files(), "LOST.DIR": None, "cats/@eaDir": None}
    if source == "folder":
        options = {"source": "folder", "path": str(write_folder(tmp_path / "images"))}
    else:
        write = write_zip if source == "zip" else write_tar
        options = {"path": str(write(tmp_path / "images.archive", entries))}
    data = clean_raw(tmp_path, fetch_raw(tmp_path / "raw", **options))
    assert data.class_names == ("cats", "dogs")
    assert sum(map(len, (data.train, data.val, data.test))) == 20
    with (tmp_path / "clean/manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows if row["action"] == "kept"} == set(class_folders())
    assert {row["reason"] for row in rows if row["action"] != "kept"} <= {"system file"}


@pytest.mark.fault("thumbnails and bins in a folder that predict is given", "no prediction is made for them")
def test_files_of_systems_are_not_predicted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images")
    assert sorted(file.relative_to(folder).as_posix() for file in find_images([folder])) == sorted(class_folders())


def test_names_of_systems_are_known_in_any_case_and_as_whole_names() -> None:
    for name in (*IN_CLASSES, *BESIDE_CLASSES):
        assert is_system_path(name.upper().split("/"))
    for name in ("recycled/1.png", "thumbs/1.png", "@home/1.png", "lost/1.png", "$/1.png", "#1/1.png", "desktop/1.png"):
        assert not is_system_path(name.split("/"))
