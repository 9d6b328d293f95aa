import errno
import json
import math
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vitprune.errors import CheckpointError, StorageError
from vitprune.storage import (
    MARK,
    atomic_file,
    atomic_folder,
    check_targets,
    partial_path,
    read_json,
    remove,
    sha256_of,
    write_json,
)


def names_in(folder):
    """The names of all files and folders in a folder but our mark."""
    return sorted(path.name for path in folder.iterdir() if path.name != MARK)


def contents_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_file(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names_in(target.parent) == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "a").touch()
    with atomic_folder(target) as partial:
        (partial / "b").touch()
        assert names_in(target) == ["a"]
    assert names_in(target) == ["b"]
    assert names_in(tmp_path) == ["folder"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "a").touch()
    with pytest.raises(RuntimeError), atomic_folder(target) as partial:
        (partial / "b").touch()
        raise RuntimeError
    assert names_in(target) == ["a"]
    assert names_in(tmp_path) == ["folder"]


WRITE_AND_HANG = """
import sys, time
from pathlib import Path
from vitprune.storage import atomic_folder
with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_tidies_up(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "old").touch()
    with subprocess.Popen([sys.executable, "-c", WRITE_AND_HANG, str(target)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert names_in(target) == ["old"]
    assert partial_path(target).exists()
    with atomic_folder(target) as partial:
        assert names_in(partial) == []
        (partial / "new").touch()
    assert names_in(target) == ["new"]
    assert names_in(tmp_path) == ["folder"]


def test_a_writer_killed_between_the_two_renames_costs_nothing(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "old").touch()
    target.rename(tmp_path / ".folder.old.partial")
    with pytest.raises(RuntimeError), atomic_folder(target):
        raise RuntimeError
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["folder"]


def test_what_cannot_be_written_is_told_by_its_path(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"folder: is a folder, but a file is to be written there"):
        write_json(tmp_path / "folder", {})
    with (
        pytest.raises(StorageError, match=r"a\.txt: is a file, but a folder is to be written there"),
        atomic_folder(tmp_path / "a.txt"),
    ):
        pass
    with pytest.raises(StorageError, match=r"b\.json: cannot be written, because .*a\.txt is not a writable folder"):
        write_json(tmp_path / "a.txt" / "b.json", {})
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert names_in(tmp_path) == ["a.txt", "folder"]


def test_every_folder_gets_the_same_mark(tmp_path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / name) as partial:
            assert list(partial.iterdir()) == []
    assert (tmp_path / "a" / MARK).read_bytes() == (tmp_path / "b" / MARK).read_bytes() != b""


@pytest.mark.parametrize(
    "own_files",
    [
        {"cat.jpg": ""},
        {"thesis.txt": "", "config.json": "{}"},
        {"model.safetensors": "", "config.json": '{"model_type": "vit"}'},
        {"dataset.json": "[]"},
        {"source.json": '{"files": 3}', "images.zip": ""},
    ],
)
def test_a_folder_of_the_users_own_files_is_not_replaced(tmp_path, own_files):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in own_files.items():
        (folder / name).write_text(content)
    before = contents_of(tmp_path)
    with pytest.raises(StorageError, match=r"mine: would be replaced as a whole, but holds files that vitprune"):
        check_targets(folders=[folder])
    with pytest.raises(StorageError, match="give another folder, or empty this one"), atomic_folder(folder) as partial:
        (partial / "new").touch()
    assert contents_of(tmp_path) == before


def test_a_folder_that_is_filled_in_the_meantime_is_not_replaced(tmp_path):
    with pytest.raises(StorageError, match=r"mine: would be replaced"), atomic_folder(tmp_path / "mine"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").touch()
    assert names_in(tmp_path / "mine") == ["thesis.txt"]


def test_new_empty_and_marked_folders_may_be_written(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "ours") as partial:
        (partial / "anything").touch()
    check_targets(folders=[tmp_path / "ours", tmp_path / "empty", tmp_path / "new" / "deeper"])


# What versions before the mark wrote into each kind of folder, with the first lines of their JSON.
MODEL = {
    "config.json": {"format": 1, "model": {}, "preprocessing": {}, "class_names": []},
    "model.safetensors": None,
}
CIRCUIT = {
    "circuit.json": {"format": 2, "method": "acdc-edge", "ablation": {}, "graph": {}, "kept": [], "removed": []},
    "trace.csv": None,
    "ablation.safetensors": None,
}
EARLIER = {
    "model": MODEL,
    "circuit": CIRCUIT,
    "circuit with its model": CIRCUIT | {f"model/{name}": content for name, content in MODEL.items()},
    "round": {"round.json": {"key": {}, "figures": {}}} | {f"model/{name}": text for name, text in MODEL.items()},
    "packed": {
        "dataset.json": {"format_version": 1, "class_names": [], "class_folders": []},
        "manifest.csv": None,
        **dict.fromkeys(f"{split}_{array}.npy" for split in ("train", "val", "test") for array in ("images", "labels")),
    },
    "raw": {
        "source.json": {
            "format_version": 1,
            "source": "archive",
            "kaggle_handle": None,
            "files": [{"name": "images.zip", "bytes": 3, "sha256": "ba78"}],
        },
        "images.zip": None,
    },
}


def earlier_folder(kind, folder):
    for name, content in EARLIER[kind].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if content is None else json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", EARLIER)
def test_a_folder_of_an_earlier_version_is_replaced_as_long_as_nothing_lies_beside(tmp_path, kind):
    folder = earlier_folder(kind, tmp_path / "folder")
    check_targets(folders=[folder])
    (folder / "thesis.txt").write_text("years of work")
    before = contents_of(folder)
    with pytest.raises(StorageError, match="holds files that vitprune did not write"), atomic_folder(folder):
        pass
    assert contents_of(folder) == before
    (folder / "thesis.txt").unlink()
    with atomic_folder(folder) as partial:
        (partial / "new").touch()
    assert names_in(folder) == ["new"]


@pytest.mark.parametrize("kind", ["circuit with its model", "round"])
def test_a_folder_of_an_earlier_version_may_have_nothing_beside_its_model_either(tmp_path, kind):
    folder = earlier_folder(kind, tmp_path / "folder")
    (folder / "model" / "thesis.txt").touch()
    with pytest.raises(StorageError, match="holds files that vitprune did not write"):
        check_targets(folders=[folder])


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_file_that_cannot_be_read_meanwhile_is_named_and_not_the_target(tmp_path, atomic):
    with (
        pytest.raises(StorageError, match=r"images\.zip: cannot be read or written \(No such file") as raised,
        atomic(tmp_path / "target"),
    ):
        (tmp_path / "images.zip").read_bytes()
    assert "target" not in str(raised.value).replace(str(tmp_path), "")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_an_error_of_no_file_passes_unchanged(tmp_path, atomic):
    with pytest.raises(ConnectionResetError, match="reset"), atomic(tmp_path / "target"):
        raise ConnectionResetError(errno.ECONNRESET, "reset by the other side")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_full_disk_and_a_file_of_the_target_itself_are_told_by_the_targets_path(tmp_path, atomic):
    with pytest.raises(StorageError, match=r"target: cannot be written \(No space left"), atomic(tmp_path / "target"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError, match=r"target: cannot be written"), atomic(tmp_path / "target") as partial:
        remove(partial)
        (partial / "weights" / "a").write_bytes(b"")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("failed writing file"), OSError("1000000 requested and 24968 written")])
def test_a_library_that_fails_on_a_full_disk_is_told_as_such(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)), atomic_file(tmp_path / "target"):
        raise error
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(StorageError, match="target: cannot be written"), atomic_file(tmp_path / "target"):
        raise error


def test_a_folder_that_may_not_be_written_to_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written, because .* is not a writable folder"):
        check_targets(files=[tmp_path / "a.txt"])


def test_json_refuses_what_is_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert names_in(tmp_path) == []


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a\.json: not readable as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_the_checksum_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_two_outputs_of_one_path_are_refused_before_any_work_is_done(tmp_path):
    plot = tmp_path / "plot.png"
    with pytest.raises(StorageError, match=r"plot\.png: two outputs would be written there"):
        check_targets(files=[plot, plot.with_suffix(".png")])
