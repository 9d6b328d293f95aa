"""Images of formats that are not read, and images that are not named like ones."""

import csv
from pathlib import Path

import pytest

from tests.data.conftest import class_folders, clean_raw, fetch_raw, image_bytes, write_zip
from vitprune.core.packed import PackedData
from vitprune.data.cleaning.find import find_images
from vitprune.data.cleaning.kinds import START_BYTES, kind_of
from vitprune.errors import DataError

SAID = "the log says how many of which kinds and what to do, and the manifest has a reason of their own"
ONLY = "refused with the kinds found and what to do"


def clean(tmp_path: Path, files: dict[str, bytes]) -> PackedData:
    archive = write_zip(tmp_path / "images.zip", files)
    return clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(archive)))


def reasons(tmp_path: Path) -> dict[str, str]:
    with (tmp_path / "clean/manifest.csv").open(newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file) if row["action"] == "ignored"}


@pytest.mark.fault("images of formats that are not read (.psd, .exr, raw files, videos) among others", SAID)
def test_formats_that_are_not_read_are_counted(tmp_path: Path, caplog) -> None:
    names = ["cats/1.PSD", "cats/2.psd", "dogs/3.exr", "dogs/4.CR2", "dogs/5.mp4", "dogs/6.svg", "cover.psd"]
    assert clean(tmp_path, class_folders() | dict.fromkeys(names, b"?")).class_names == ("cats", "dogs")
    assert reasons(tmp_path) == dict.fromkeys(names, "image format that is not read")
    assert "left out, because their formats are not read: 3 .psd, 1 .exr, 1 .cr2, 1 .mp4, 1 .svg" in caplog.text
    assert "convert them to PNG or JPEG" in caplog.text


@pytest.mark.fault("images without an ending, or with that of a text (photo, 1.JPG.txt)", SAID)
def test_images_that_are_not_named_like_ones_are_counted(tmp_path: Path, caplog) -> None:
    unnamed = {"cats/photo": image_bytes(900, format="JPEG"), "dogs/1.JPG.txt": image_bytes(901)}
    clean(tmp_path, class_folders() | unnamed | {"cats/readme": b"a text", "dogs/BMW.txt": b"BMW is no bitmap"})
    assert reasons(tmp_path) == dict.fromkeys(unnamed, "image without the ending of one") | dict.fromkeys(
        ["cats/readme", "dogs/BMW.txt"], "not an image"
    )
    assert "because their names do not end like those of images: 2, such as cats/photo" in caplog.text


@pytest.mark.fault("a class folder that holds nothing but images of formats that are not read", ONLY)
@pytest.mark.parametrize(
    ("name", "content", "kinds"),
    [
        ("birds/{}.psd", b"?", r"3 \.psd"),
        ("birds/{}.mp4", b"?", r"3 \.mp4"),
        ("birds/deep/{}.dng", b"?", r"3 \.dng"),
        ("birds/{}", image_bytes(900), "3 without ending"),
    ],
)
def test_a_class_of_unread_images_alone_is_refused(tmp_path: Path, name: str, content: bytes, kinds: str) -> None:
    birds = {name.format(number): content for number in range(3)}
    with pytest.raises(DataError, match=rf"birds: holds no images of formats that are read, but {kinds}; convert them"):
        clean(tmp_path, class_folders() | birds)
    in_test = {f"test/{file}": content for file, content in birds.items()}
    in_train = {f"train/birds/{number}.png": image_bytes(800 + number) for number in range(3)}
    with pytest.raises(DataError, match=r"test/birds: holds no images of formats that are read"):
        clean(tmp_path, class_folders("train/") | class_folders("test/") | in_train | in_test)


@pytest.mark.fault("a split that holds nothing but images of formats that are not read", ONLY)
def test_a_split_of_unread_images_alone_is_refused(tmp_path: Path) -> None:
    train = class_folders("train/")
    test = {name.replace("train/", "test/").replace(".png", ".heic"): b"?" for name in train}
    with pytest.raises(DataError, match=r"test/cats: holds no images of formats that are read, but 10 \.heic"):
        clean(tmp_path, train | test)


@pytest.mark.fault("an annotated split that holds nothing but images of formats that are not read", ONLY)
def test_an_annotated_split_of_unread_images_alone_is_refused(tmp_path: Path) -> None:
    val = {"val/images/1.heic": b"?", "val/val_annotations.txt": b"1.heic\tcats\n"}
    with pytest.raises(DataError, match=r"val/images: holds no images of formats that are read, but 1 \.heic"):
        clean(tmp_path, class_folders("train/") | val)


@pytest.mark.fault("a source that holds nothing but images of formats that are not read", ONLY)
def test_a_source_of_unread_images_alone_is_refused(tmp_path: Path) -> None:
    files = {f"{name}/{number}.heic": b"?" for name in ("cats", "dogs") for number in range(4)}
    with pytest.raises(DataError, match=r"no images of formats that are read among 9 files, but 8 \.heic.*convert"):
        clean(tmp_path, files | {"readme.txt": b"text"})


@pytest.mark.fault("a folder of images of formats that are not read, given to predict", SAID.split(",")[0])
def test_predict_says_which_images_it_leaves_out(tmp_path: Path, caplog) -> None:
    for name, content in {"1.png": image_bytes(0), "2.heic": b"?", "photo": image_bytes(1), "notes": b""}.items():
        (tmp_path / name).write_bytes(content)
    assert find_images([tmp_path]) == [tmp_path / "1.png"]
    assert "not read: 1 .heic, such as" in caplog.text
    assert "do not end like those of images: 1" in caplog.text
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"no image files in .*; there are 1 \.heic, 1 without ending, not read"):
        find_images([tmp_path])


def test_the_first_bytes_tell_images_from_other_files() -> None:
    for format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        assert kind_of("photo", image_bytes(0, format=format)[:START_BYTES]) == "unnamed"
    assert kind_of("photo", b"\0\0\0\x18ftypheic\0\0\0\0") == "unnamed"
    for start in (
        b"",
        b"BM of course",
        b"Passage one, two",
        b"\0\0\0\x18ftypmp42\0\0\0\0",
        b"PK\3\4",
        b"GIF is a format",
    ):
        assert kind_of("photo", start) == "other"
