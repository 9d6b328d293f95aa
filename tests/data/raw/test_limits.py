"""Archives that would fill the memory or the disk, made small and with small limits."""

import copy
import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import class_folders, clean_raw, fetch_raw, write_tar, write_zip
from vitprune.data.raw.archive import check_archive
from vitprune.data.raw.limits import ArchiveLimits
from vitprune.errors import DataError

MEGABYTE = 1 << 20
LONG = 64 * MEGABYTE
FILES = {f"{number}.txt": b"content" for number in range(20)}


def limits(**changes: Any) -> ArchiveLimits:
    values: dict[str, Any] = {"max_members": 1000, "max_unpacked_bytes": 10**9, "max_compression_ratio": 300}
    return ArchiveLimits(**(values | changes))


def header(kind: bytes, size: int) -> bytes:
    """One block of a tar."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    return info.tobuf()


def tar_gz(path: Path, *parts: bytes) -> Path:
    """A compressed tar of these blocks, with its end mark."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in (*parts, bytes(1024)):
            file.write(part)
    return path


EXTENDED: dict[str, bytes] = {
    "long name": tarfile.GNUTYPE_LONGNAME,
    "long target of a link": tarfile.GNUTYPE_LONGLINK,
    "PAX header": tarfile.XHDTYPE,
    "global PAX header": tarfile.XGLTYPE,
    "Solaris header": tarfile.SOLARIS_XHDTYPE,
}


@pytest.mark.fault("a tar whose long name or PAX header unpacks to gigabytes", "it is refused before it is read")
@pytest.mark.parametrize("kind", EXTENDED)
def test_an_extended_header_of_a_tar_is_refused_before_it_fills_the_memory(tmp_path: Path, kind: str) -> None:
    bomb = tar_gz(tmp_path / "bomb.tar.gz", header(EXTENDED[kind], LONG), bytes(LONG), header(b"0", 0))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"bomb\.tar\.gz: broken, or made to fill the memory .*{LONG} bytes"):
            check_archive(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "between"), [("long name", b""), ("global PAX header", header(b"0", 0))])
def test_many_extended_headers_count_together(tmp_path: Path, kind: str, between: bytes) -> None:
    """tarfile reads the headers of one member in one go, and keeps global ones to the end."""
    size = MEGABYTE // 4
    record = b"9 a=bcde\n" * (size // 9)
    content = record + bytes(-len(record) % 512)
    parts = [header(EXTENDED[kind], len(record)) + content + between] * 5
    with pytest.raises(DataError, match="made to fill the memory"):
        check_archive(tar_gz(tmp_path / "bomb.tar.gz", *parts, header(b"0", 0)))


def test_names_as_long_as_file_systems_allow_are_read(tmp_path: Path) -> None:
    name = "/".join(["folder" * 30] * 20) + "/image.png"
    assert check_archive(write_tar(tmp_path / "long.tar", {name: b"x"})) == 1


BOMBS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda path: write_zip(path, {"zeros.png": bytes(2 * LONG)}),
    "zip of many": lambda path: write_zip(path, {f"{number}.png": bytes(LONG // 8) for number in range(16)}),
    "tar.gz": lambda path: write_tar(path, {"zeros.png": bytes(2 * LONG)}, "w:gz"),
    "tar.xz": lambda path: write_tar(path, {"zeros.png": bytes(2 * LONG)}, "w:xz"),
}


@pytest.mark.fault(
    "an archive of gigabytes of zeros", "it is refused by its ratio, which is a param, before it is read"
)
@pytest.mark.parametrize("kind", BOMBS)
def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path: Path, kind: str) -> None:
    bomb = BOMBS[kind](tmp_path / "bomb")
    with pytest.raises(DataError, match=r"unpacks to \d+ MB or more .* raise clean\.max_compression_ratio \(300\)"):
        check_archive(bomb, limits=limits())
    assert check_archive(bomb, limits=limits(max_compression_ratio=10**6)) > 0


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_what_is_small_after_unpacking_may_be_compressed_as_much_as_it_likes(tmp_path: Path, kind: str) -> None:
    files = {"zeros.png": bytes(32 * MEGABYTE)}
    path = tmp_path / f"zeros.{kind}"
    (write_zip(path, files) if kind == "zip" else write_tar(path, files, "w:gz"))
    assert check_archive(path, limits=limits(max_compression_ratio=1)) == 1


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_more_bytes_or_members_than_the_params_allow_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images"
    write_zip(path, FILES) if kind == "zip" else write_tar(path, FILES, f"w:{kind[4:]}")
    assert check_archive(path, limits=limits(max_members=20)) == 20
    with pytest.raises(DataError, match=r"images: more than 19 files and folders; .* raise clean\.max_members"):
        check_archive(path, limits=limits(max_members=19))
    with pytest.raises(DataError, match=r"images: unpacks to 0\.0 GB or more; .* raise clean\.max_unpacked_gb"):
        check_archive(path, limits=limits(max_unpacked_bytes=100))


@pytest.mark.fault("a zip that lists more members than it says", "they are counted before they fill the memory")
def test_the_members_of_a_zip_are_counted_and_not_believed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.zip", FILES)
    content = bytearray(path.read_bytes())
    # Numbers of entries on this disk and in total, in the record that ends a zip.
    content[-14:-10] = struct.pack("<HH", 1, 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match="more than 19 files"):
        check_archive(path, limits=limits(max_members=19))


def test_a_zip_in_zip64_format_is_counted_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    path = write_zip(tmp_path / "images.zip", FILES)
    monkeypatch.undo()
    assert b"PK\x06\x06" in path.read_bytes()
    assert check_archive(path, limits=limits(max_members=20)) == 20
    with pytest.raises(DataError, match="more than 19 files"):
        check_archive(path, limits=limits(max_members=19))


@pytest.mark.fault("members of a zip that share their bytes", "the zip is refused as broken or a bomb")
@pytest.mark.parametrize("nested", [False, True])
def test_overlapping_members_of_a_zip_are_refused(tmp_path: Path, nested: bool) -> None:
    """Of one block of bytes, a bomb makes as many files as it lists (David Fifield, 2019)."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w") as archive:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as other:
            other.writestr("inside.png", b"x" * 100)
        archive.writestr("outside.png", inner.getvalue())
        again = copy.copy(archive.filelist[0])
        again.filename = "again.png"
        if nested:
            # The local header of the zip that is stored within.
            again.header_offset = path.read_bytes().index(b"PK\x03\x04", 4)
            again.filename, again.CRC = "inside.png", other.filelist[0].CRC
            again.file_size = again.compress_size = 100
        archive.filelist.append(again)
    with pytest.raises(DataError, match=r"or a bomb .*shares its bytes with another"):
        check_archive(path)


@pytest.mark.fault("a sparse file in a tar, longer than the archive", "its length counts, not what is stored")
def test_a_sparse_file_counts_with_its_whole_length(tmp_path: Path) -> None:
    content = b"1\n0\n5\n".ljust(512, b"\0") + b"hello"
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("sparse.png")
        info.size = len(content)
        keys = {"major": "1", "minor": "0", "name": "sparse.png", "realsize": str(10**13)}
        info.pax_headers = {f"GNU.sparse.{key}": value for key, value in keys.items()}
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"unpacks to 10000\.0 GB or more"):
        check_archive(tmp_path / "sparse.tar", limits=limits())


def test_a_member_of_negative_length_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.size = -512
        archive.addfile(info)
    with pytest.raises(DataError, match=r"bad\.tar: .*-512 bytes"):
        check_archive(tmp_path / "bad.tar")


def test_the_limits_are_params_of_cleaning(tmp_path: Path) -> None:
    data = fetch_raw(tmp_path / "raw", path=str(write_zip(tmp_path / "images.zip", class_folders())))
    with pytest.raises(DataError, match=r"more than 5 files and folders; .* raise clean\.max_members"):
        clean_raw(tmp_path, data, max_members=5)
    assert not (tmp_path / "clean").exists()
