import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.data.conftest import write_tar, write_zip
from vitprune.data.raw.archive import check_archive, stream_members
from vitprune.errors import DataError

ENDINGS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")
FILES: dict[str, bytes | None] = {"a": None, "a/one.txt": b"first", "./b/two.txt": b"second" * 300}


def contents(archive: Path) -> dict[str, bytes]:
    return {member.name: member.read(1 << 20) for member in stream_members(archive) if not member.is_folder}


def write(path: Path, files: Mapping[str, bytes | None]) -> Path:
    """An archive of the kind that the name of the path ends in."""
    if path.suffix == ".zip":
        return write_zip(path, files)
    return write_tar(path, files, f"w:{path.suffix.removeprefix('.').removeprefix('tar')}")


def tar_with_link(path: Path, kind: bytes, target: str) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("one.png")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("a/link.png")
        link.type, link.linkname = kind, target
        archive.addfile(link)
    return path


def zip_with_link(path: Path, target: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("a/link.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_archive_gives_names_and_contents(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"images.{ending}", FILES)
    assert contents(path) == {"a/one.txt": b"first", "b/two.txt": b"second" * 300}
    assert [member.name for member in stream_members(path) if member.is_folder] == ["a"]
    assert check_archive(path) == 2


def test_the_kind_follows_from_the_content_and_not_from_the_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "images.zip", FILES, "w:gz")
    assert len(contents(path)) == 2


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"inside.txt": b"x"})
    path = write_tar(tmp_path / "outer.tar", {"inner.zip": inner.read_bytes()})
    assert list(contents(path)) == ["inner.zip"]


@pytest.mark.fault("members of an archive that lead out of it", "the archive is refused, and nothing is written")
@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "..\\evil.png", "C:\\evil.png", "\\evil.png"]
)
def test_members_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    for ending in ("zip", "tar"):
        path = write(tmp_path / f"bad.{ending}", {"fine.png": b"x", name: b"x"})
        with pytest.raises(DataError, match=rf"bad\.{ending}: unsafe member .*evil\.png.*do not unpack it"):
            check_archive(path)


@pytest.mark.fault("links in an archive that lead out of it", "the archive is refused, and nothing is written")
@pytest.mark.parametrize("target", ["/etc/passwd", "../../passwd", "inside/../../../passwd", "C:\\passwd"])
def test_links_out_of_the_archive_are_refused(tmp_path: Path, target: str) -> None:
    paths = [tar_with_link(tmp_path / f"{kind!r}.tar", kind, target) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)]
    for path in (*paths, zip_with_link(tmp_path / "bad.zip", target)):
        with pytest.raises(DataError, match=r"unsafe member 'a/link\.png' \(a link to .*passwd"):
            check_archive(path)


def test_a_link_inside_a_zip_is_a_link(tmp_path: Path) -> None:
    (member,) = stream_members(zip_with_link(tmp_path / "fine.zip", "../one.png"))
    assert member.is_link


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.SYMTYPE, "../one.png"), (tarfile.LNKTYPE, "one.png"), (tarfile.FIFOTYPE, "")]
)
def test_tar_members_without_content_are_links(tmp_path: Path, kind: bytes, target: str) -> None:
    path = tar_with_link(tmp_path / "links.tar", kind, target)
    assert [(member.name, member.is_link, member.read(9)) for member in stream_members(path)] == [
        ("one.png", False, b"x"),
        ("a/link.png", True, b""),
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_archive_that_was_cut_is_refused(tmp_path: Path, ending: str) -> None:
    files = {f"{number}.bin": bytes(range(256)) * 40 + bytes([number]) * 1000 for number in range(30)}
    path = write(tmp_path / f"cut.{ending}", files)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"cut\..*(broken|cut short)"):
            check_archive(path)


def test_a_tar_that_was_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cut.tar", {"a.bin": b"x" * 512, "b.bin": b"x" * 512})
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(DataError, match="cut short"):
        check_archive(path)


def test_a_tar_with_a_broken_header_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "broken.tar", {"a.bin": b"x" * 512, "b.bin": b"x" * 512})
    content = bytearray(path.read_bytes())
    content[1024:1100] = b"?" * 76
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        check_archive(path)


def test_a_zip_whose_content_does_not_match_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flipped.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.bin", b"x" * 1000)
    path.write_bytes(path.read_bytes().replace(b"x" * 1000, b"x" * 999 + b"y"))
    with pytest.raises(DataError, match=r"flipped\.zip: broken.*CRC"):
        check_archive(path)


def test_the_checksum_at_the_end_of_a_compressed_tar_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "flipped.tar.gz", {"a.bin": b"x" * 1000}, "w:gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken"):
        check_archive(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "secret.zip", {"a.bin": b"x" * 100})
    content = bytearray(path.read_bytes())
    # The flag stands in the member's own header and in the directory at the end.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        check_archive(path)


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thing.zip"
    for content in (b"", b"not an archive", b"\xff\xd8\xff\xe0 a photograph"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"thing\.zip: not a zip or tar archive"):
            check_archive(path)


def test_an_archive_without_files_is_refused(tmp_path: Path) -> None:
    for ending in ("zip", "tar"):
        with pytest.raises(DataError, match="holds no files"):
            check_archive(write(tmp_path / f"empty.{ending}", {"folder": None}))


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.zip: not readable"):
        check_archive(tmp_path / "gone.zip")


def test_folders_of_a_windows_zip_are_folders(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "windows.zip", {"cats\\": b"", "cats\\1.png": b"x"})
    assert [(member.name, member.is_folder) for member in stream_members(path)] == [
        ("cats", True),
        ("cats/1.png", False),
    ]
