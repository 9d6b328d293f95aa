"""Names of files as text that can be written, shown and compared."""

from __future__ import annotations

import re
import unicodedata
import zipfile
import zlib

# Control characters and line ends would break lines and tables; lone surrogates cannot be written as UTF-8.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075


def escaped(text: str) -> str:
    r"""``text`` with an escape such as ``\n`` or ``\udce9`` for each character that cannot be shown."""
    return _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def readable(name: str) -> str:
    """``name`` in the composed form of Unicode (NFC), which macOS and Linux do not agree on, and escaped."""
    return escaped(unicodedata.normalize("NFC", name))


def zip_name(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The name of a zip's member, and whether its encoding is only a guess.

    Without the flag for UTF-8, ``zipfile`` reads names as cp437, but many programs, such as macOS's, write UTF-8 there
    all the same (python/cpython#84587). Other systems write their own code page, which the archive does not name.
    """
    # zipfile cuts ``filename`` at a NUL and keeps the whole name here.
    name = info.orig_filename
    if info.flag_bits & _UTF8_FLAG or name.isascii():
        return name, False
    stored = name.encode("cp437")
    extra = _unicode_path(info.extra, stored)
    for encoded in (stored,) if extra is None else (extra, stored):
        try:
            return encoded.decode("utf-8"), False
        except UnicodeDecodeError:
            continue
    return name, True


def _unicode_path(extra: bytes, stored: bytes) -> bytes | None:
    """The UTF-8 name in Info-ZIP's extra field, if it was written for the name that is stored."""
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        is_for_stored = field[1:5] == zlib.crc32(stored).to_bytes(4, "little")
        if kind == _UNICODE_PATH and field[:1] == b"\1" and is_for_stored:
            return field[5:]
    return None
