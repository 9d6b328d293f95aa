"""Image files made byte by byte, or by Pillow with options."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG with its right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_16_bits(values: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16 bits for each sample, which Pillow does not write: ``(h, w, c)``, c from 1 to 4."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values: np.ndarray, *, sample_format: int = 1, photometric: int | None = None, **tags: int) -> bytes:
    """An uncompressed TIFF ``(h, w, c)`` in its own byte order, c 1 or 3; ``tags`` such as ``t281=4095``."""
    height, width, channels = values.shape
    order = ">" if values.dtype.byteorder == ">" else "<"
    bits = values.dtype.itemsize * 8
    pixels = values.tobytes()
    entries = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, bits),
        259: (3, 1, 1),
        262: (3, 1, (2 if channels == 3 else 1) if photometric is None else photometric),
        277: (3, 1, channels),
        278: (4, 1, height),
        279: (4, 1, len(pixels)),
        339: (3, 1, sample_format),
    } | {int(tag[1:]): (3, 1, value) for tag, value in tags.items()}
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[273] = (4, 1, start)
    body = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value))
        for tag, (kind, count, value) in sorted(entries.items())
    )
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(entries))
    return head + body + bytes(4) + pixels
