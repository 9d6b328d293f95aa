import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.data.conftest import image_bytes
from vitprune.data.cleaning.decoding import decode
from vitprune.data.cleaning.find import find_images
from vitprune.data.cleaning.images import digest, read_image, to_square
from vitprune.data.cleaning.pixels import UnusableImage, to_pixels
from vitprune.errors import DataError


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I"])
def test_every_mode_becomes_grey_or_colour(mode: str) -> None:
    grey = Image.new("L", (6, 4), 200)
    image = grey.convert("I").point(lambda value: value * 257) if mode in ("I", "I;16") else grey.convert("RGB")
    image = image.convert(mode) if mode != "LAB" else Image.new("LAB", (6, 4), (200, 128, 128))
    for channels in (1, 3):
        pixels = to_pixels(image, channels)
        assert (pixels.shape, pixels.dtype) == ((4, 6, channels), np.uint8)
        if mode not in ("1", "LAB"):
            assert abs(pixels.astype(int) - 200).max() <= 5


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_every_format_is_read(format: str) -> None:
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pixels = decode(saved(Image.new("RGB", (5, 3), (200, 10, 10)), format), 3).pixels
    assert abs(pixels.astype(int) - (200, 10, 10)).max() <= 8


def test_a_cmyk_jpeg_is_read() -> None:
    pixels = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 3).pixels
    assert abs(pixels.astype(int) - (255, 0, 0)).max() <= 8


def test_16_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 65535, 32768]], np.uint16)
    pixels = decode(saved(Image.fromarray(values)), 1).pixels
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 1, 255, 127])


def test_transparent_pixels_turn_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    pixels = decode(saved(image), 3).pixels
    np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [10, 20, 30]])
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([1, 2, 3, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    pixels = decode(saved(palette, transparency=0), 3).pixels
    np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [40, 50, 60]])


def test_images_stand_upright_as_exif_says() -> None:
    image = Image.new("L", (3, 2), 0)
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("PNG", "TIFF"):
        pixels = decode(saved(image, format, exif=exif), 1).pixels
        assert pixels.shape == (3, 2, 1)
        assert pixels[0, 1, 0] == 255


def test_the_first_frame_of_an_animation_counts() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    pixels = decode(saved(red, "GIF", save_all=True, append_images=[blue]), 3).pixels
    np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "TIFF"])
def test_files_cut_short_are_undecodable(format: str) -> None:
    content = image_bytes(0, size=(40, 40), format=format)
    for share in (0.1, 0.5, 0.8):
        with pytest.raises(UnusableImage):
            decode(content[: int(len(content) * share)], 3)


def test_files_that_are_not_images_are_undecodable() -> None:
    for content in (b"", b"a text named .jpg", b"\x00" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(UnusableImage):
            decode(content, 3)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_not_unpacked(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side // 8 + 1) * 100)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(UnusableImage):
        decode(bomb, 1, max_pixels=10_000_000)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for resize in ("crop", "stretch"):
        np.testing.assert_array_equal(to_square(pixels, 8, resize), pixels.transpose(2, 0, 1))


def test_cropping_takes_the_middle_square_and_stretching_takes_all() -> None:
    pixels = np.zeros((8, 16, 1), np.uint8)
    pixels[:, 4:12] = 255
    np.testing.assert_array_equal(to_square(pixels, 8, "crop"), np.full((1, 8, 8), 255))
    stretched = to_square(pixels, 8, "stretch")
    assert stretched[0, 4, 0] < 20
    assert stretched[0, 4, 4] > 235
    np.testing.assert_array_equal(to_square(pixels.transpose(1, 0, 2), 8, "crop"), np.full((1, 8, 8), 255))


def test_shrinking_averages_instead_of_picking() -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, None]
    shrunk = to_square(board, 8, "crop").astype(int)
    assert abs(shrunk - 127).max() <= 16


def test_the_digest_tells_pixels_and_shapes_apart() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    assert digest(pixels) == digest(pixels.copy())
    assert digest(pixels) == digest(np.asfortranarray(pixels))
    assert digest(pixels) != digest(pixels.reshape(6, 4, 1))
    assert digest(pixels) != digest(pixels + np.uint8(1))


def test_images_are_found_in_folders_and_read_as_the_clean_stage_makes_them(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    content = image_bytes(0, size=(9, 5))
    for name in ("b.PNG", "deep/er/a.png"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("not an image")
    files = find_images([tmp_path, tmp_path / "notes.txt"])
    assert [file.name for file in files] == ["b.PNG", "a.png", "notes.txt"]
    pixels = decode(content, 1).pixels
    np.testing.assert_array_equal(read_image(files[0], 4, 1, "crop"), to_square(pixels, 4, "crop"))
    with pytest.raises(DataError, match=r"notes\.txt: not an image that can be decoded"):
        read_image(files[2], 4, 1, "crop")
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        find_images([Path("nowhere")])
    with pytest.raises(DataError, match="no image files in"):
        (tmp_path / "empty").mkdir()
        find_images([tmp_path / "empty"])
