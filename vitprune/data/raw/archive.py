"""Read zip and tar archives from front to back, without extracting them.

Members are streamed, so that each pass over a compressed tar decompresses it only once. A member that points outside
the archive is refused: nothing here would write it, but unpacking the same archive elsewhere would.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

from vitprune.data.raw.limits import (
    UNLIMITED,
    ArchiveLimits,
    LimitedStream,
    check_zip_directory,
    check_zip_members,
    tar_headers,
)
from vitprune.data.raw.names import readable, zip_name
from vitprune.errors import DataError

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:/")
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    struct.error,
    # tarfile reads a chain of extended headers by calling itself.
    RecursionError,
)
_TAR_OPENERS: tuple[tuple[bytes, Callable[[Path], IO[bytes]]], ...] = (
    (b"\x1f\x8b", cast("Callable[[Path], IO[bytes]]", gzip.open)),
    (b"BZh", cast("Callable[[Path], IO[bytes]]", bz2.open)),
    (b"\xfd7zXZ\x00", cast("Callable[[Path], IO[bytes]]", lzma.open)),
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry of an archive.

    ``name`` is readable and has forward slashes and no leading ``./``; it ``is_guessed`` where the archive does not say
    how it is encoded. ``read`` returns at most the given number of bytes, and is valid until the next member is
    requested. A link has no content.
    """

    name: str
    size: int
    is_guessed: bool = False
    is_folder: bool = False
    is_link: bool = False
    read: Callable[[int], bytes] = field(repr=False, compare=False)


def stream_members(archive: Path, limits: ArchiveLimits = UNLIMITED) -> Iterator[Member]:
    """Yield the members of a zip or tar (plain, gz, bz2 or xz) in the order in which they are stored.

    Raises DataError if the file is not an archive, is broken, cut short or encrypted, has an unsafe member, or is
    beyond the limits.
    """
    with _archive_errors(archive):
        with archive.open("rb") as file:
            start = file.read(8)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _zip_members(archive, limits)
        else:
            yield from _tar_members(archive, start, limits)


@contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"{archive}: not readable ({error.strerror})") from error
    except tarfile.ReadError as error:
        raise DataError(f"{archive}: not a zip or tar archive, or a broken one ({error})") from error
    except NotImplementedError as error:
        raise DataError(f"{archive}: compressed in a way that cannot be read ({error}); pack it anew") from error
    except _BROKEN as error:
        raise DataError(f"{archive}: broken or cut short ({error}); fetch it again") from error


def _reader(archive: Path, content: IO[bytes]) -> Callable[[int], bytes]:
    # The caller reads outside the generator, which therefore cannot translate the errors of reading.
    def read(limit: int) -> bytes:
        with _archive_errors(archive):
            return content.read(limit)

    return read


def check_archive(
    archive: Path, on_progress: Callable[[int, int], None] | None = None, *, limits: ArchiveLimits = UNLIMITED
) -> int:
    """Read a whole archive and return its number of files; raises DataError as ``stream_members`` does.

    ``on_progress`` receives the number of members read so far as both values, because the total is not yet known.
    """
    files = 0
    guessed: list[str] = []
    for count, member in enumerate(stream_members(archive, limits), start=1):
        files += not member.is_folder
        guessed += [member.name] if member.is_guessed else []
        # Reading checks a zip's checksum of each member; the checksum of a compressed tar covers the whole.
        while member.read(CHUNK):
            pass
        if on_progress is not None and count % 1000 == 0:
            on_progress(count, count)
    if not files:
        raise DataError(f"{archive}: holds no files")
    if guessed:
        logger.warning(
            "%s: does not say how its names are encoded; %d of them are read as cp437, such as %s; pack it anew if "
            "that is wrong",
            archive,
            len(guessed),
            guessed[0],
        )
    return files


def _nothing(limit: int) -> bytes:  # noqa: ARG001
    return b""


def _safe_name(archive: Path, name: str) -> str:
    """The member's name, readable and with forward slashes; DataError if it leads out of the archive."""
    slashes = name.replace("\\", "/")
    if slashes.startswith("/") or _DRIVE.match(slashes) or ".." in slashes.split("/") or "\0" in slashes:
        raise DataError(
            f"{archive}: unsafe member {name!r} (an absolute path, or one that leads out of the archive); "
            "do not unpack it, and get the archive from somewhere else"
        )
    return "/".join(part for part in readable(slashes).split("/") if part not in ("", "."))


def _check_link(archive: Path, name: str, target: str, *, base: PurePosixPath) -> None:
    slashes = target.replace("\\", "/")
    depth = len(base.parts)
    safe = not (slashes.startswith("/") or _DRIVE.match(slashes))
    for part in slashes.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        safe = safe and depth >= 0
    if not safe:
        raise DataError(
            f"{archive}: unsafe member {name!r} (a link to {target!r}, outside the archive); "
            "do not unpack it, and get the archive from somewhere else"
        )


def _zip_members(archive: Path, limits: ArchiveLimits) -> Iterator[Member]:
    check_zip_directory(archive, limits)
    with zipfile.ZipFile(archive) as file:
        check_zip_members(archive, file, limits)
        for info in file.infolist():
            stored, is_guessed = zip_name(info)
            name = _safe_name(archive, stored)
            if info.flag_bits & 1:
                raise DataError(f"{archive}: member {name!r} is encrypted; unpack it and pack it anew without password")
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            with file.open(info) as content:
                if is_link:
                    target = content.read(CHUNK).decode("utf-8", "replace")
                    _check_link(archive, name, target, base=PurePosixPath(name).parent)
                yield Member(
                    name=name,
                    size=info.file_size,
                    is_guessed=is_guessed,
                    # Zips made on Windows may end their folders with a backslash.
                    is_folder=stored.endswith(("/", "\\")),
                    is_link=is_link,
                    read=_reader(archive, content),
                )


@contextmanager
def _limited(archive: Path, start: bytes, limits: ArchiveLimits) -> Iterator[IO[bytes]]:
    opener = next((open_ for magic, open_ in _TAR_OPENERS if start.startswith(magic)), None)
    with archive.open("rb") if opener is None else opener(archive) as file:
        yield cast("IO[bytes]", LimitedStream(archive, file, limits))


def _tar_members(archive: Path, start: bytes, limits: ArchiveLimits) -> Iterator[Member]:
    members = unpacked = 0
    with (
        _limited(archive, start, limits) as file,
        tarfile.open(fileobj=file, mode="r:", tarinfo=tar_headers(archive)) as tar,
    ):
        while (info := tar.next()) is not None:
            # tarfile would keep all members in memory for random access, which is not needed here.
            tar.members.clear()  # type: ignore[attr-defined]
            members, unpacked = members + 1, unpacked + info.size
            limits.check_members(archive, members)
            # A sparse file may be longer than all that is stored.
            limits.check_unpacked(archive, unpacked)
            name = _safe_name(archive, info.name)
            if info.issym():
                _check_link(archive, name, info.linkname, base=PurePosixPath(name).parent)
            elif info.islnk():
                _check_link(archive, name, info.linkname, base=PurePosixPath())
            content = tar.extractfile(info) if info.isreg() else None
            yield Member(
                name=name,
                size=info.size if info.isreg() else 0,
                is_folder=info.isdir(),
                # Devices and pipes have no content either.
                is_link=not (info.isreg() or info.isdir()),
                read=_reader(archive, content) if content is not None else _nothing,
            )
        # A complete tar ends with a block of zeros. tarfile also stops at the end of the file or at a broken header.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise DataError(f"{archive}: broken or cut short (no end mark at byte {tar.offset}); fetch it again")
        # The checksum of a compressed tar comes last and is checked when it is read.
        while file.read(CHUNK):
            pass
