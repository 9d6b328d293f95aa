"""What an archive may ask for before it counts as a bomb: one that fills the memory, or takes hours, to no end."""

from __future__ import annotations

import struct
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitprune.errors import DataError

HEADER_BYTES = 1 << 20
"""Of a tar, the long name and other extended headers of one member, or of the whole archive. tarfile keeps them all."""
FREE_BYTES = 1 << 26
"""So much may always come out of an archive, however well it is compressed."""


class ArchiveTooLargeError(DataError):
    """An archive is beyond the limits, which may be raised."""


_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DIRECTORY_ENTRY = struct.Struct("<28xHHH12x")
_LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """The most that is read of an archive: members, bytes after unpacking, and those for each byte before it."""

    max_members: int
    max_unpacked_bytes: int
    max_compression_ratio: float

    def check_members(self, archive: Path, members: int) -> None:
        """Raise ArchiveTooLargeError if the archive has too many members."""
        if members > self.max_members:
            raise ArchiveTooLargeError(
                f"{archive}: more than {self.max_members} files and folders; if it is meant to be so large, raise "
                "clean.max_members"
            )

    def check_unpacked(self, archive: Path, unpacked: int) -> None:
        """Raise ArchiveTooLargeError if the archive unpacks to too many bytes."""
        if unpacked > self.max_unpacked_bytes:
            raise ArchiveTooLargeError(
                f"{archive}: unpacks to {unpacked / 1e9:.1f} GB or more; if it is meant to be so large, raise "
                f"clean.max_unpacked_gb ({self.max_unpacked_bytes / 1e9:g})"
            )
        packed = archive.stat().st_size
        if unpacked > max(FREE_BYTES, packed * self.max_compression_ratio):
            raise ArchiveTooLargeError(
                f"{archive}: unpacks to {unpacked / 1e6:.0f} MB or more from {packed / 1e6:.1f} MB, as a bomb does "
                "that is to fill the memory or the disk; if its images are meant to be so empty, raise "
                f"clean.max_compression_ratio ({self.max_compression_ratio:g})"
            )


UNLIMITED = ArchiveLimits(max_members=sys.maxsize, max_unpacked_bytes=sys.maxsize, max_compression_ratio=float("inf"))


class LimitedStream:
    """An unpacked tar that refuses to be read beyond the limits."""

    def __init__(self, archive: Path, file: IO[bytes], limits: ArchiveLimits) -> None:
        self._archive = archive
        self._file = file
        self._limits = limits

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._limits.check_unpacked(self._archive, self._file.tell())
        return content

    def seek(self, position: int, /) -> int:
        # Before, because going forward in a compressed file means to unpack all that is passed over.
        self._limits.check_unpacked(self._archive, position)
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def tar_headers(archive: Path) -> type[tarfile.TarInfo]:
    """Headers of the members of one tar, which are refused before they fill the memory."""
    extended = lasting = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            nonlocal extended, lasting
            header = super().frombuf(buf, encoding, errors)
            if header.size < 0:
                raise tarfile.ReadError(f"a member of {header.size} bytes")
            if header.type == tarfile.XGLTYPE:
                lasting += header.size
            extended = extended + header.size if header.type in _EXTENDED else 0
            if max(extended, lasting) > HEADER_BYTES:
                raise DataError(
                    f"{archive}: broken, or made to fill the memory (a member with a name or description of "
                    f"{max(extended, lasting)} bytes); pack it anew"
                )
            return header

    return Header


def check_zip_directory(archive: Path, limits: ArchiveLimits) -> None:
    """Raise DataError if a zip lists too many members. zipfile keeps them all in memory, so they are counted first."""
    with archive.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end is None:
            return  # zipfile says what is wrong with it.
        left = end[zipfile._ECD_SIZE]  # type: ignore[attr-defined]
        start = end[zipfile._ECD_LOCATION] - left  # type: ignore[attr-defined]
        if end[zipfile._ECD_SIGNATURE] == zipfile.stringEndArchive64:  # type: ignore[attr-defined]
            start -= zipfile.sizeEndCentDir64 + zipfile.sizeEndCentDir64Locator  # type: ignore[attr-defined]
        file.seek(max(0, start))
        members = 0
        # The number that it gives itself may be wrong.
        while left > 0 and len(entry := file.read(_DIRECTORY_ENTRY.size)) == _DIRECTORY_ENTRY.size:
            more = sum(_DIRECTORY_ENTRY.unpack(entry))
            file.seek(more, 1)
            left -= len(entry) + more
            members += 1
            limits.check_members(archive, members)


def check_zip_members(archive: Path, file: zipfile.ZipFile, limits: ArchiveLimits) -> None:
    """Raise DataError if the members of a zip unpack to too much, or share bytes, as those of a bomb do."""
    members: Sequence[zipfile.ZipInfo] = sorted(file.infolist(), key=lambda info: info.header_offset)
    limits.check_unpacked(archive, sum(info.file_size for info in members))
    starts = [info.header_offset for info in members[1:]] + [file.start_dir]
    for info, following in zip(members, starts, strict=True):
        if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > following:
            raise DataError(
                f"{archive}: broken, or a bomb (the member {info.filename!r} shares its bytes with another); "
                "get the archive from somewhere else"
            )
