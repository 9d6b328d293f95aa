"""Brightness: how many bits are used, and what is transparent."""

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cleaning.image_files import chunk, png_of_16_bits, saved, tiff
from tests.data.conftest import clean_raw, fetch_raw, image_bytes, write_zip
from vitprune.data.cleaning.decoding import decode
from vitprune.data.cleaning.images import read_image
from vitprune.data.cleaning.pixels import BIT_DEPTHS, UnusableImage, bit_depth_of

RANDOM = np.random.default_rng(0)
BRIGHT = RANDOM.integers(100, 256, (8, 8, 3)).astype(np.uint16)


def clean_files(tmp_path: Path, files: dict[str, bytes], **options: object):
    """Packed data of these files, whose counts are in ``clean.json``."""
    archive = write_zip(tmp_path / "images.zip", files)
    data = fetch_raw(tmp_path / "raw", path=str(archive), channels=options.pop("channels", 1))
    return clean_raw(tmp_path, data, **options)


def files_of_depth(bits: int, encode) -> dict[str, bytes]:
    """Images of two classes, one of them dark, with values of so many bits; two images reach white."""
    files = {}
    for label, (name, most) in enumerate((("bright", (1 << bits) - 1), ("dark", (1 << bits) // 20))):
        for number in range(10):
            values = np.random.default_rng([label, number]).integers(0, most + 1, (8, 8, 1)).astype(np.uint16)
            values[0, 0] = most
            files[f"{name}/{number}"] = encode(values)
    return files


ENCODERS = {
    "png": lambda values: png_of_16_bits(values),
    "tif": lambda values: tiff(values),
    "tiff": lambda values: tiff(values.astype(">u2")),
    "PNG": lambda values: png_of_16_bits(np.repeat(values, 3, axis=2)),
    "TIF": lambda values: tiff(np.repeat(values, 3, axis=2), t258=16),
}


@pytest.mark.parametrize("bits", BIT_DEPTHS)
@pytest.mark.parametrize("ending", ENCODERS)
@pytest.mark.fault("files of 16 bits hold values of 8, 10, 12 or 14", "the data set decides what is white; it is said")
def test_the_bit_depth_is_that_of_the_data_set(tmp_path: Path, caplog, bits: int, ending: str) -> None:
    caplog.set_level("INFO", "vitprune")
    files = {f"{name}.{ending}": content for name, content in files_of_depth(bits, ENCODERS[ending]).items()}
    packed = clean_files(tmp_path, files)
    assert packed.bit_depth == bits
    assert json.loads((tmp_path / "clean.json").read_text())["bit_depth"] == bits
    assert f"of which the data set uses {bits}" in caplog.text
    images = {name: split.images[split.labels == label] for split in (packed.train,) for label, name in enumerate("bd")}
    assert images["b"].max(axis=(1, 2, 3)).tolist() == [255] * len(images["b"])
    assert images["b"].mean() == pytest.approx(127, abs=20)
    # A dark image is dark, and is not stretched.
    assert 10 <= images["d"].max() <= 13


@pytest.mark.fault("predict meets one dark image of 16 bits", "it is as bright as the data set makes it")
def test_a_single_file_is_read_with_the_bit_depth_of_its_data_set(tmp_path: Path) -> None:
    files = {f"{name}.png": content for name, content in files_of_depth(12, ENCODERS["png"]).items()}
    packed = clean_files(tmp_path, files)
    with (tmp_path / "clean/manifest.csv").open(newline="") as file:
        name = next(row["name"] for row in csv.DictReader(file) if row["split"] == "test" and row["class"] == "dark")
    (tmp_path / "one.png").write_bytes(files[name])
    pixels = read_image(tmp_path / "one.png", 8, 1, "crop", bit_depth=packed.bit_depth)
    assert any(np.array_equal(pixels, image) for image in packed.test.images)


def test_images_of_8_bits_beside_those_of_16_are_left_alone(tmp_path: Path) -> None:
    files = {f"{name}.png": content for name, content in files_of_depth(12, ENCODERS["png"]).items()}
    plain = {f"bright/plain{number}.png": image_bytes(number, size=(8, 8), mode="L") for number in range(5)}
    packed = clean_files(tmp_path, files | plain)
    expected = decode(plain["bright/plain0.png"], 1).pixels.transpose(2, 0, 1)
    everything = np.concatenate([split.images for split in (packed.train, packed.val, packed.test)])
    assert any(np.array_equal(expected, image) for image in everything)


@pytest.mark.parametrize(
    ("content", "bits"),
    [
        (tiff(BRIGHT[:, :, :1], t281=4095), 12),
        (tiff(BRIGHT[:, :, :1], t281=65535), 16),
        (png_of_16_bits(BRIGHT[:, :, :1], chunk(b"sBIT", b"\x0c")), 12),
        (png_of_16_bits(BRIGHT, chunk(b"sBIT", b"\x0a\x0a\x0a")), 10),
        (b"P5 8 8 4095\n" + (BRIGHT[:, :, 0] * 16 - 1).astype(">u2").tobytes(), 16),
        (png_of_16_bits(BRIGHT), 8),
    ],
)
def test_a_file_may_say_how_many_bits_it_uses(content: bytes, bits: int) -> None:
    peak = decode(content, 1).peak
    assert peak is not None
    assert bit_depth_of(peak) == bits


def test_a_tiff_of_12_bits_for_each_sample_is_read() -> None:
    values = RANDOM.integers(0, 256, (4, 4))
    packed = np.array([[(a << 12 | b) >> shift & 0xFF for shift in (16, 8, 0)] for a, b in values.reshape(-1, 2)])
    content = bytearray(tiff(packed.astype(np.uint8).reshape(4, 6, 1), t256=4))
    at = content.index(struct.pack("<HHI", 258, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", 12)
    at = content.index(struct.pack("<HHI", 256, 3, 1))
    decoded = decode(bytes(content), 1, bit_depth=12)
    assert bit_depth_of(decoded.peak or 0) == 12
    np.testing.assert_array_equal(decoded.pixels[:, :, 0], values * 255 // 4095)


def test_both_bytes_of_a_colour_of_12_bits_count() -> None:
    values = RANDOM.integers(0, 4096, (5, 7, 4)).astype(np.uint16)
    values[..., 3] = 4095
    for content in (
        png_of_16_bits(values[..., :3]),
        png_of_16_bits(values),
        tiff(values[..., :3]),
        tiff(values[..., :3].astype(">u2")),
    ):
        decoded = decode(content, 3, bit_depth=12)
        np.testing.assert_array_equal(decoded.pixels, (values[..., :3].astype(int) * 255 // 4095))


@pytest.mark.fault("a colour image of 12 bits has a transparency of 16", "it counts as opaque, and its colours stay")
def test_transparency_does_not_count_for_the_bit_depth() -> None:
    values = RANDOM.integers(0, 4096, (5, 7, 4)).astype(np.uint16)
    values[..., 3] = 65535
    decoded = decode(png_of_16_bits(values), 3, bit_depth=12)
    assert bit_depth_of(decoded.peak or 0) == 12
    np.testing.assert_array_equal(decoded.pixels, (values[..., :3].astype(int) * 255 // 4095))


@pytest.mark.fault("a grey image of 12 bits has transparency: Pillow reads 8", "it is left out, with the reason")
def test_what_pillow_cannot_read_with_all_bits_is_left_out() -> None:
    values = RANDOM.integers(0, 4096, (5, 7, 2)).astype(np.uint16)
    assert decode(png_of_16_bits(values), 1).pixels.shape == (5, 7, 1)
    with pytest.raises(UnusableImage, match="LA of 16 bits, of which fewer are used; store it with 8 bits"):
        decode(png_of_16_bits(values), 1, bit_depth=12)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (tiff(RANDOM.random((4, 4, 1)).astype(np.float32), sample_format=3), "floating-point pixels"),
        (b"Pf\n4 4\n-1.0\n" + RANDOM.random((4, 4)).astype("<f4").tobytes(), "floating-point pixels"),
        (tiff(np.array([[[-5], [900]]], np.int16), sample_format=2), "values from -5 to 900"),
        (tiff(np.array([[[0], [70000]]], np.uint32)), "values from 0 to 70000"),
        (tiff(np.array([[[-2], [7]]], np.int32), sample_format=2), "values from -2 to 7"),
    ],
)
@pytest.mark.fault(
    "pixels are floating-point numbers, negative, or beyond 16 bits",
    "the image is left out, and its range is the reason",
)
def test_pixels_of_no_agreed_range_are_refused_by_that_name(tmp_path: Path, content: bytes, detail: str) -> None:
    with pytest.raises(UnusableImage, match=f"unknown pixel range .*{detail}.*store it with 8"):
        decode(content, 1)
    files = {f"{name}/{number}.png": image_bytes(100 * ord(name) + number) for name in "ab" for number in range(10)}
    clean_files(tmp_path, files | {"a/odd.tif": content})
    with (tmp_path / "clean/manifest.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["name"] == "a/odd.tif")
    assert (row["action"], row["reason"]) == ("dropped", "unknown pixel range")
    assert detail in row["detail"]
    (tmp_path / "odd.tif").write_bytes(content)
    with pytest.raises(Exception, match=rf"odd\.tif: not an image that can be decoded; leave it out \(.*{detail}"):
        read_image(tmp_path / "odd.tif", 8, 1, "crop")


@pytest.mark.parametrize("values", [np.array([[[0], [30000]]], np.int16), np.array([[[0], [30000]]], np.int32)])
def test_signed_and_long_values_within_16_bits_are_read(values: np.ndarray) -> None:
    decoded = decode(tiff(values, sample_format=2), 1, bit_depth=16)
    assert decoded.peak == 30000
    assert decoded.pixels[0, :, 0].tolist() == [0, 30000 * 255 // 65535]


@pytest.mark.fault("a TIFF of 16 bits in which 0 is white", "it is inverted, as one of 8 bits is")
def test_white_may_be_zero() -> None:
    values = np.array([[[0], [65535]]], np.uint16)
    assert decode(tiff(values, photometric=0), 1).pixels[0, :, 0].tolist() == [255, 0]


def bmp_with_alpha(alpha: int) -> bytes:
    """A BMP of 32 bits with a mask for alpha, as image editors write it."""
    pixels = np.full((2, 3, 4), alpha, np.uint8)
    pixels[..., :3] = (10, 20, 30)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 3, 2, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0) + masks + bytes(52)
    return struct.pack("<2sIII", b"BM", 14 + 108 + pixels.nbytes, 0, 14 + 108) + header + pixels.tobytes()


@pytest.mark.fault("the fourth channel of a BMP is zero everywhere", "the image is not transparent, and is counted")
def test_a_fourth_channel_of_zeros_is_no_transparency() -> None:
    unused = decode(bmp_with_alpha(0), 3)
    assert unused.notes == ("unused transparency",)
    assert unused.pixels[0, 0].tolist() == [30, 20, 10]
    used = decode(bmp_with_alpha(255), 3)
    assert used.notes == ()
    np.testing.assert_array_equal(used.pixels, unused.pixels)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.fault("a PNG, WebP or GIF is transparent everywhere", "it is white, counted and said")
def test_an_image_that_is_transparent_everywhere_is_counted(format: str) -> None:
    decoded = decode(saved(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), format), 3)
    assert decoded.notes == ("entirely transparent",)
    assert (decoded.pixels == 255).all()


@pytest.mark.fault("metadata are broken or images transparent", "the numbers stand in the metrics and are said")
def test_what_is_odd_is_counted_and_said(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "vitprune")
    files = {f"{name}/{number}.png": image_bytes(100 * ord(name) + number) for name in "ab" for number in range(10)}
    files["a/clear.png"] = saved(Image.new("RGBA", (4, 4), (1, 2, 3, 0)))
    files["a/exif.png"] = saved(Image.effect_noise((9, 9), 90), exif=b"Exif\0\0This_is_not_valid")
    clean_files(tmp_path, files, max_dropped_fraction=0.0)
    notes = json.loads((tmp_path / "clean.json").read_text())["notes"]
    assert notes == {"broken_metadata": 1, "entirely_transparent": 1, "unused_transparency": 0}
    assert "images that are used in spite of: 1 broken metadata, 1 entirely transparent" in caplog.text
    with (tmp_path / "clean/manifest.csv").open(newline="") as file:
        details = {row["name"]: (row["action"], row["detail"]) for row in csv.DictReader(file) if row["detail"]}
    assert details == {"a/clear.png": ("kept", "entirely transparent"), "a/exif.png": ("kept", "broken metadata")}
