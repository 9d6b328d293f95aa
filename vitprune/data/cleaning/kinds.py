"""What a file is by its name and its first bytes: an image, an image that is not read, or something else."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

from vitprune.data.cleaning.formats import EXTENSIONS

logger = logging.getLogger(__name__)

Kind = Literal["image", "unread", "unnamed", "beside", "other"]
"""``unread``: a photograph of a format that is not read. ``unnamed``: an image without the ending of one. ``beside``: a
drawing, video or array, which may be data or may only accompany it. ``other``: a text and the like."""

REASONS: dict[Kind, str] = {
    "unread": "image format that is not read",
    "unnamed": "image without the ending of one",
    "beside": "image format that is not read",
    "other": "not an image",
}
"""Why a file that is no image is left out, for the manifest."""

_PHOTOGRAPHS = (
    ".heic .heics .heif .heifs .hif .avif .avifs .jxl .jp2 .j2k .jpf .jpx .jpm .j2c .jls .jxr .wdp .tga .exr .hdr .dcm "
    ".dicom .pcx .icns .ico .qoi .dds .flif .bpg "
    # raw files of cameras
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 "
    ".rwl .sr2 .srf .srw .x3f"
)
_BESIDE = (
    ".svg .svgz .psd .psb .xcf .eps .kra .npy .npz .fits .nii .mha .mp4 .m4v .mov .avi .mkv .webm .wmv .flv "
    ".mpg .mpeg .mts .m2ts .3gp .ogv"
)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_PHOTOGRAPHS.split(), "unread"),
    **dict.fromkeys(_BESIDE.split(), "beside"),
    # Last, because what is read is read, whatever it was before.
    **dict.fromkeys(EXTENSIONS, "image"),
}
# The starts of the formats that are read, and of the commonest that are not.
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\0|MM\0\*|BM.{4}\0\0\0\0|....ftyp(?:hei|hev|mif1|msf1|avi[fs])"
    rb"|\0\0\0\x0cJXL |\0\0\0\x0cjP  ",
    re.DOTALL,
)
START_BYTES = 16
"""As many first bytes say what a file is."""


def kind_of(name: str, start: bytes = b"") -> Kind:
    """What the file of this name is; ``start`` are its first bytes, if they are known."""
    kind = _KINDS.get(PurePosixPath(name).suffix.lower(), "other")
    return "unnamed" if kind == "other" and _STARTS.match(start) else kind


def counted_endings(names: Iterable[str]) -> str:
    """The endings of these names, with the number of each: ``20 .heic, 1 .mp4``."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in names)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common())


def warn_of_images_left_out(files: Sequence[tuple[str, Kind]]) -> None:
    """Say how many of these files are images that are not read, and what to do about it."""
    unread = sorted(name for name, kind in files if kind in ("unread", "beside"))
    unnamed = sorted(name for name, kind in files if kind == "unnamed")
    if unread:
        logger.warning(
            "left out, because their formats are not read: %s, such as %s; if they belong to the data, "
            "convert them to PNG or JPEG",
            counted_endings(unread),
            unread[0],
        )
    if unnamed:
        logger.warning(
            "left out, because their names do not end like those of images: %d, such as %s; if they belong to the "
            "data, give them the ending of their format, such as .jpg",
            len(unnamed),
            unnamed[0],
        )
