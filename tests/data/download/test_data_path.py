"""``data.path``: odd but good paths work, bad ones are named, and nothing of the user's is replaced."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.conftest import class_folders, clean_raw, fetch_raw, write_zip
from vitprune.commands.download import download
from vitprune.errors import DataError

UNTOUCHED = "it is refused before anything is touched"


def write_folder(folder: Path) -> Path:
    for name, content in class_folders().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data/raw and data/clean were written by vitprune, and then filled with class folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    data = fetch_raw(tmp_path / "data/raw", source="folder", path=str(write_folder(tmp_path / "images")))
    shutil.copytree(tmp_path / "data/raw", tmp_path / "raw")
    clean_raw(tmp_path, data)
    (tmp_path / "clean").rename(tmp_path / "data/clean")
    shutil.rmtree(tmp_path / "raw")
    write_folder(tmp_path / "data/raw")
    write_folder(tmp_path / "data/raw/mine")
    write_folder(tmp_path / "data/clean")
    (tmp_path / "link").symlink_to("data/raw")
    (tmp_path / "models").mkdir()
    write_folder(tmp_path / "models/in/here")
    (tmp_path / "models/baseline").mkdir()
    (tmp_path / "models/baseline/.made-by-vitprune").touch()
    return tmp_path


@pytest.mark.fault("data.path that is, contains or lies in a folder that a stage writes", UNTOUCHED)
@pytest.mark.parametrize("source", ["folder", "fashion-mnist"])
@pytest.mark.parametrize(
    "path",
    ["data/raw", "data/raw/", "./images/../data/raw", "link", "link/mine", "data/raw/mine", "data", ".", "data/clean"],
)
def test_a_folder_that_the_pipeline_writes_is_no_source(project: Path, params_file, source: str, path: str) -> None:
    before = contents(project)
    params = params_file(source=source, path=path)
    with pytest.raises(DataError, match=r"data\.path: .*; move the images to a folder of their own, and name that"):
        download(params, Path("data/raw"))
    params.unlink()
    assert contents(project) == before


@pytest.mark.fault("an archive to read that lies in a folder that a stage writes", UNTOUCHED)
@pytest.mark.parametrize("path", ["data/raw/images.tar", "link/images.tar", "data/clean/dataset.json", "hard.tar"])
def test_an_archive_in_a_folder_that_the_pipeline_writes_is_no_source(project: Path, params_file, path: str) -> None:
    (project / "hard.tar").symlink_to("data/raw/images.tar")
    before = contents(project)
    params = params_file(source="archive", path=path)
    with pytest.raises(DataError, match=r"data\.path: .* lies in "):
        download(params, Path("data/raw"))
    params.unlink()
    assert contents(project) == before


@pytest.mark.fault("a folder to read that holds folders of models or data that a stage wrote", UNTOUCHED)
def test_a_folder_with_written_folders_in_it_is_no_source(project: Path, params_file) -> None:
    before = contents(project)
    params = params_file(source="folder", path="models")
    with pytest.raises(DataError, match=r"models/baseline, inside it, was written by vitprune"):
        download(params, Path("raw"))
    params.unlink()
    assert contents(project) == before


@pytest.mark.fault("data.path in a raw folder without vitprune's mark, as earlier versions wrote it", UNTOUCHED)
def test_a_raw_folder_without_the_mark_is_no_source_either(project: Path, params_file) -> None:
    (project / "data/raw/.made-by-vitprune").unlink()
    for source, path in (("folder", "link/mine"), ("archive", "data/raw/images.tar")):
        with pytest.raises(DataError, match=r"data\.path: .* lies in the folder to write \(data/raw\)"):
            download(params_file(source=source, path=path), Path("data/raw"))
    assert (project / "data/raw/mine/cats/00.png").is_file()


@pytest.mark.fault("data.path that names the folder to write in another case, where case is folded", UNTOUCHED)
def test_one_folder_at_two_places_is_recognised(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(project / "DATA/RAW")

    def samefile(one: Path, other: Path) -> bool:
        return str(one).lower() == str(other).lower()

    # As on a file system that folds case, which this machine need not have.
    monkeypatch.setattr(Path, "samefile", samefile)
    with pytest.raises(DataError, match=r"data\.path: DATA/RAW is or contains the folder to write"):
        fetch_raw(Path("data/raw"), source="folder", path="DATA/RAW")


PATHS: list[tuple[str, Callable[[Path], str]]] = [
    ("spaces and umlauts", lambda folder: str(folder)),
    ("trailing slash", lambda folder: f"{folder}/"),
    ("relative", lambda folder: os.path.relpath(folder)),
    ("dots", lambda folder: f"{folder}/../{folder.name}/."),
    ("home", lambda folder: f"~/{folder.name}"),
    ("link", lambda folder: str(folder.parent / "link")),
]


@pytest.mark.parametrize("write", [path for _, path in PATHS], ids=[name for name, _ in PATHS])
def test_odd_but_good_paths_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "my größe\u0308 images")
    (tmp_path / "link").symlink_to(folder)
    data = fetch_raw(tmp_path / "raw", source="folder", path=write(folder))
    assert clean_raw(tmp_path, data).class_names == ("cats", "dogs")


def test_an_archive_may_have_an_odd_name(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "my größe images.zip", class_folders())
    assert clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(archive))).class_names == ("cats", "dogs")


@pytest.mark.fault("data.path that cannot be read, or is nothing to read from", "one sentence names it and what to do")
@pytest.mark.parametrize("source", ["folder", "archive", "fashion-mnist", "kaggle"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no\nwhere", r"data\.path: no\\nwhere does not exist"),
        ("~nobody-of-this-name/images", r"data\.path: ~nobody-of-this-name/images: .*; write the folder in full"),
        ("x" * 5000, r"data\.path: x+ is not readable \(File name too long\)"),
        ("file/inside", r"data\.path: file/inside does not exist"),
        ("loop", r"data\.path: loop does not exist"),
        ("socket", r"data\.path: socket is (not a folder|neither a file nor a folder)"),
    ],
)
def test_bad_paths_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as pipe:
        pipe.bind("socket")
    with pytest.raises(DataError, match=message) as raised:
        fetch_raw(tmp_path / "raw", source=source, path=path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "raw").exists()


@pytest.mark.fault("a folder in the source that cannot be read", "one sentence names it")
@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("locked", ["images", "images/cats"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, locked: str) -> None:
    write_folder(tmp_path / "images")
    (tmp_path / locked).chmod(0)
    try:
        with pytest.raises(DataError, match=rf"{locked}.* not readable \(Permission denied\)"):
            fetch_raw(tmp_path / "raw", source="folder", path=str(tmp_path / "images"))
    finally:
        (tmp_path / locked).chmod(0o755)
