import errno
import math
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitprune.errors import CheckpointError, StorageError
from vitprune.storage import (
    MARK,
    atomic_file,
    atomic_folder,
    check_targets,
    check_unchanged,
    read_json,
    remove,
    sha256_of,
    write_json,
    writing,
)
from vitprune.storage.exchange import exchange
from vitprune.storage.mark import EARLIER_MARK, SKIP_CHECKSUMS


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


@pytest.mark.fault("an error while a file is written", "the old file stays")
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


@pytest.mark.fault("an error while a folder is written", "the old folder stays")
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as partial:
        (partial / "a").touch()
    with pytest.raises(RuntimeError), atomic_folder(target) as partial:
        (partial / "b").touch()
        raise RuntimeError
    assert names_in(target) == ["a"]
    assert names_in(tmp_path) == ["folder"]


WRITE = """
import sys, time
from pathlib import Path
from vitprune.storage import atomic_folder
target, content, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
while True:
    with atomic_folder(target) as partial:
        for name in "abc":
            (partial / name).write_text(content)
        print("writing", flush=True)
        time.sleep(seconds)
"""


@contextmanager
def writer(target, content, seconds):
    """A process that writes a folder over and over again, each time for so many seconds; killed in the end."""
    command = [sys.executable, "-c", WRITE, str(target), content, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"writing\n"
            yield process
        finally:
            process.kill()


def write_folder(target, *names):
    with atomic_folder(target) as partial:
        for name in names:
            (partial / name).write_text(name)


@pytest.mark.fault("a kill while a folder is written", "the old folder stays; the next writer removes what was left")
def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_tidies_up(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "old")
    with writer(target, "half", 60):
        pass
    assert names_in(target) == ["old"]
    assert len(names_in(tmp_path)) == 2
    write_folder(target, "new")
    assert names_in(target) == ["new"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.fault("a kill at any moment, again and again", "the folder is there, whole and unmixed")
def test_writers_that_are_killed_at_any_moment_leave_a_whole_folder(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "a", "b", "c")
    for turn in range(6):
        with writer(target, f"{turn}", 0):
            # Every kill comes at another moment of one of many rounds.
            time.sleep(0.003 * turn)
        assert len({path.read_text() for path in target.iterdir() if path.name != MARK}) in (1, 3)
        check_unchanged(target)
    write_folder(target, "new")
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.fault("two processes write one folder at once", "each folder that appears is whole, of one of them")
def test_two_writers_of_one_folder_do_not_mix(tmp_path):
    target = tmp_path / "folder"
    with writer(target, "one", 0), writer(target, "two", 0):
        seen = set()
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            # A copy is of one folder only if no other has taken its place meanwhile.
            folder = os.open(target, os.O_RDONLY)
            try:
                contents = {Path(f"/proc/self/fd/{folder}/{name}").read_text() for name in "abc"}
            except FileNotFoundError:
                continue
            finally:
                os.close(folder)
            assert len(contents) == 1
            seen |= contents
    assert seen == {"one", "two"}
    write_folder(target, "new")
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.fault("a folder is read while it is replaced", "it is there at every moment")
@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the system has no exchange")
def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "old")
    with writer(target, "new", 0):
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            target.stat()


def test_the_workplace_of_a_living_writer_is_left_alone(tmp_path):
    with writer(tmp_path / "folder", "half", 60):
        write_folder(tmp_path / "folder", "new")
        assert len(names_in(tmp_path)) == 2


@pytest.mark.fault("a folder of the user's is named like a workplace of ours", "it is left alone")
@pytest.mark.parametrize("name", [".mine.partial", ".mine.old.partial", ".mine.a1b2c3d4.partial"])
def test_a_folder_of_the_users_with_a_name_like_ours_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    write_folder(tmp_path / "mine", "new")
    write_json(tmp_path / "mine.json", {})
    assert names_in(tmp_path / name) == ["thesis.txt"]


@pytest.fixture
def without_exchange(monkeypatch):
    """A system that cannot exchange two folders in one step."""
    monkeypatch.setattr(writing, "exchange", lambda one, other: False if other.exists() else exchange(one, other))


def test_a_folder_is_also_replaced_where_the_system_has_no_exchange(tmp_path, without_exchange):
    write_folder(tmp_path / "folder", "old")
    write_folder(tmp_path / "folder", "new")
    assert names_in(tmp_path / "folder") == ["new"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.fault("a kill between two renames, on a system without exchange", "the next writer puts the old one back")
def test_a_writer_killed_between_the_two_renames_costs_nothing(tmp_path):
    target = tmp_path / "folder"
    write_folder(target, "old")
    with writer(target, "half", 60):
        (workplace,) = (path for path in tmp_path.iterdir() if path != target)
    (workplace / ".old").mkdir()
    target.rename(workplace / ".old" / "folder")
    with pytest.raises(RuntimeError), atomic_folder(target):
        raise RuntimeError
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.fault("an output is a folder where a file is meant, or the reverse", "it is refused, and nothing is lost")
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


def test_equal_folders_get_equal_marks(tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / name, "one", "two")
    write_folder(tmp_path / "c", "one")
    marks = [(tmp_path / name / MARK).read_bytes() for name in "abc"]
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.fault("an output is a folder of the user's own files", "it is refused before any work is done")
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
    with pytest.raises(StorageError, match="empty it, or give another folder"), atomic_folder(folder) as partial:
        (partial / "new").touch()
    assert contents_of(tmp_path) == before


@pytest.mark.fault("the user fills a folder while it is being made", "it is not replaced")
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


@pytest.mark.fault("the user keeps a file in a folder of ours", "the folder is not replaced before it is moved")
@pytest.mark.parametrize("name", ["thesis.txt", "deeper/thesis.txt", ".thesis"])
def test_a_folder_of_ours_with_a_file_of_the_users_is_not_replaced(tmp_path, name):
    folder = tmp_path / "folder"
    write_folder(folder, "old")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("years of work")
    before = contents_of(folder)
    message = rf"folder: would be replaced as a whole, .* did not write \({name}\); move them elsewhere"
    with pytest.raises(StorageError, match=message):
        write_folder(folder, "new")
    assert contents_of(folder) == before
    (folder / name).unlink()
    (folder / ".DS_Store").touch()
    write_folder(folder, "new")
    assert names_in(folder) == ["new"]


def test_a_folder_with_the_mark_of_an_earlier_version_is_read_and_replaced(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / MARK).write_text(EARLIER_MARK)
    (folder / "old").touch()
    check_unchanged(folder)
    write_folder(folder, "new")
    assert names_in(folder) == ["new"]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


CHANGES = {
    "a bit flips in a file": lambda folder: flip(folder / "deeper" / "b", 0),
    "a file is cut short": lambda folder: (folder / "a").write_text(""),
    "a file is gone": lambda folder: (folder / "a").unlink(),
    "a checksum is changed": lambda folder: flip(folder / MARK, -20),
    "the note in the mark is changed": lambda folder: flip(folder / MARK, 20),
    "the mark is cut short": lambda folder: (folder / MARK).write_bytes((folder / MARK).read_bytes()[:-3]),
    "the mark is empty": lambda folder: (folder / MARK).write_bytes(b""),
    "the mark holds something else": lambda folder: (folder / MARK).write_text("[]"),
}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=pytest.mark.fault(f"{name}", "the reader says so"))
        for name, change in CHANGES.items()
    ],
)
def test_a_change_in_a_folder_is_noticed(tmp_path, change, monkeypatch):
    folder = tmp_path / "folder"
    with atomic_folder(folder) as partial:
        (partial / "deeper").mkdir()
        (partial / "a").write_text("one")
        (partial / "deeper" / "b").write_text("two")
    check_unchanged(folder)
    change(folder)
    with pytest.raises(CheckpointError, match=r"(is not what vitprune wrote|is gone).*dvc repro --force"):
        check_unchanged(folder)
    monkeypatch.setenv(SKIP_CHECKSUMS, "1")
    check_unchanged(folder)


def test_a_folder_that_was_changed_on_purpose_is_read_once_its_mark_is_gone(tmp_path):
    write_folder(tmp_path / "folder", "a")
    (tmp_path / "folder" / "a").write_text("changed")
    (tmp_path / "folder" / MARK).unlink()
    check_unchanged(tmp_path / "folder")


@pytest.mark.fault("an input goes away while an output is written", "the input is named")
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


@pytest.mark.fault("the disk is full", "the sentence names what could not be written")
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_full_disk_and_a_file_of_the_target_itself_are_told_by_the_targets_path(tmp_path, atomic):
    with pytest.raises(StorageError, match=r"target: cannot be written \(No space left"), atomic(tmp_path / "target"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError, match=r"target: cannot be written"), atomic(tmp_path / "target") as partial:
        remove(partial)
        (partial / "weights" / "a").write_bytes(b"")
    assert names_in(tmp_path) == []


@pytest.mark.fault("the disk is full, and a library hides it", "the sentence says so")
@pytest.mark.parametrize("error", [RuntimeError("failed writing file"), OSError("1000000 requested and 24968 written")])
def test_a_library_that_fails_on_a_full_disk_is_told_as_such(tmp_path, monkeypatch, error):
    with pytest.raises(type(error)), atomic_file(tmp_path / "target"):
        raise error
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(StorageError, match="target: cannot be written"), atomic_file(tmp_path / "target"):
        raise error


@pytest.mark.fault("an output lies in a read-only folder", "it is refused before any work is done")
def test_a_folder_that_may_not_be_written_to_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written, because .* is not a writable folder"):
        check_targets(files=[tmp_path / "a.txt"])


def test_json_refuses_what_is_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert names_in(tmp_path) == []


@pytest.mark.fault("a JSON file of ours is broken or missing", "the file is named")
def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a\.json: not readable as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_the_checksum_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.fault("two outputs have one path", "they are refused before any work is done")
def test_two_outputs_of_one_path_are_refused_before_any_work_is_done(tmp_path):
    plot = tmp_path / "plot.png"
    with pytest.raises(StorageError, match=r"plot\.png: two outputs would be written there"):
        check_targets(files=[plot, plot.with_suffix(".png")])
