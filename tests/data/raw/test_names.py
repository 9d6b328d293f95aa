"""Names of files as text, and the names in zips that do not say how they are encoded."""

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.data.conftest import class_folders, write_zip
from vitprune.data.raw.archive import check_archive, stream_members
from vitprune.data.raw.names import escaped, readable


def zip_of_bytes(path: Path, name: bytes, extra: bytes = b"") -> Path:
    """A zip with a member of this name, as written by a program that sets no flag for UTF-8."""
    placeholder = "x" * len(name)
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(placeholder)
        info.extra = extra
        archive.writestr(info, b"content")
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name))
    return path


def unicode_path(name: str, stored: bytes) -> bytes:
    """Info-ZIP's extra field with the name in UTF-8."""
    field = b"\1" + struct.pack("<I", zlib.crc32(stored)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


UNFLAGGED = "UTF-8 is recognised, and anything else is said to be a guess"


@pytest.mark.fault("zips whose UTF-8 names lack the flag for it (macOS, Info-ZIP)", UNFLAGGED)
@pytest.mark.parametrize("name", ["café/thé.png", "Übergröße/1.png", "猫/ねこ.png", "кошка/1.png"])
def test_utf8_names_without_the_flag_are_read(tmp_path: Path, name: str, caplog) -> None:
    path = zip_of_bytes(tmp_path / "mac.zip", name.encode())
    assert [(member.name, member.read(99)) for member in stream_members(path)] == [(readable(name), b"content")]
    assert check_archive(path) == 1
    assert caplog.text == ""


@pytest.mark.fault("zips whose names are in a code page that they do not name", UNFLAGGED)
def test_names_in_an_unknown_code_page_are_said_to_be_guessed(tmp_path: Path, caplog) -> None:
    path = zip_of_bytes(tmp_path / "dos.zip", "Größe/ä.png".encode("cp437"))
    assert [member.name for member in stream_members(path)] == ["Größe/ä.png"]
    check_archive(path)
    assert "dos.zip: does not say how its names are encoded; 1 of them are read as cp437, such as Größe/ä.png" in (
        caplog.text
    )


def test_the_unicode_path_of_info_zip_is_used_if_it_belongs_to_the_name(tmp_path: Path) -> None:
    stored = "猫/1.png".encode("cp932")
    for extra, name in (
        (unicode_path("猫/1.png", stored), "猫/1.png"),
        (b"\x55\x54\x05\x00\x01abcd" + unicode_path("猫/1.png", stored), "猫/1.png"),
        (unicode_path("猫/1.png", b"another name"), stored.decode("cp437")),
    ):
        (member,) = stream_members(zip_of_bytes(tmp_path / "info.zip", stored, extra))
        assert member.name == name


def test_unsafe_names_are_unsafe_in_any_encoding(tmp_path: Path) -> None:
    stored = b"caf\x82/1.png"
    path = zip_of_bytes(tmp_path / "evil.zip", stored, unicode_path("../café/1.png", stored))
    with pytest.raises(Exception, match=r"evil\.zip: unsafe member '\.\./caf"):
        check_archive(path)


def test_flagged_and_plain_names_stay_as_they_are(tmp_path: Path, caplog) -> None:
    path = write_zip(tmp_path / "fine.zip", class_folders(classes=("café", "plain")))
    assert {member.name.split("/")[0] for member in stream_members(path)} == {"café", "plain"}
    check_archive(path)
    assert caplog.text == ""


def test_escapes_leave_what_can_be_shown() -> None:
    assert escaped("a\tb\x7f\x85\udce9 ä 猫 \u200d") == "a\\tb\\x7f\\x85\\udce9 ä 猫 \u200d"
    assert readable("e\u0301\n") == "é\\n"
