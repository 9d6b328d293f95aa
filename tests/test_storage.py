import math
import signal
import subprocess
import sys

import pytest

from vitprune.errors import CheckpointError, StorageError
from vitprune.storage import atomic_file, atomic_folder, check_targets, partial_path, read_json, sha256_of, write_json


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


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
    with pytest.raises(StorageError, match=r"b\.json: cannot be written, because .*a\.txt is no folder"):
        write_json(tmp_path / "a.txt" / "b.json", {})
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert names_in(tmp_path) == ["a.txt", "folder"]


def test_a_folder_of_the_users_own_files_is_not_replaced(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "cat.jpg").touch()
    with pytest.raises(StorageError, match=r"photographs: would be replaced as a whole, .*\(cat\.jpg\)"):
        check_targets(folders=[tmp_path / "photographs"])
    (tmp_path / "photographs" / "dataset.json").touch()
    check_targets(folders=[tmp_path / "photographs", tmp_path / "new" / "deeper"])


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
