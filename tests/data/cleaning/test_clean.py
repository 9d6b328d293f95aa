"""Cleaning from end to end, on real archives that were fetched as the download stage does."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import class_folders, clean_params, clean_raw, fetch_raw, image_bytes, write_tar, write_zip
from vitprune.commands.clean import clean as clean_command
from vitprune.commands.download import download as download_command
from vitprune.core.packed import PackedData, load_packed
from vitprune.data.cleaning.clean import clean
from vitprune.errors import DataError

GENEROUS = {"max_dropped_fraction": 1.0}


@pytest.fixture
def cleaned(tmp_path: Path) -> Callable[..., PackedData]:
    """Fetch and clean an archive of the given files; the outputs are in ``tmp_path``."""

    def run(
        files: Mapping[str, bytes | str | None], *, tar: str = "", clean: Mapping[str, Any] | None = None, **data: Any
    ) -> PackedData:
        archive = tmp_path / "images.archive"
        write_tar(archive, files, tar) if tar else write_zip(archive, files)
        return clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(archive), **data), **(clean or {}))

    return run


def manifest(tmp_path: Path) -> dict[str, dict[str, str]]:
    with (tmp_path / "clean/manifest.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def metrics(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "clean.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kaggle_tiny_imagenet() -> dict[str, bytes | str | None]:
    """A small copy of the cleaned Tiny-ImageNet on Kaggle, with every kind of fault."""
    files: dict[str, bytes | str | None] = {
        "wnids.txt": "n01\nn02\nn03\n",
        "words.txt": "n01\tgoldfish, fish\nn02\ttoad\n",
    }
    for wnid in ("n01", "n02"):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t9\t9\n"
        for split, count in (("train", 6), ("val", 3), ("test", 2)):
            for number in range(count):
                seed = int(wnid[1:]) * 1000 + len(split) * 100 + number + (500 if split == "val" else 0)
                files[f"{split}/{wnid}/{split}_{number}.JPEG"] = image_bytes(seed, format="JPEG")
    files["train/n01/cut.JPEG"] = image_bytes(1, size=(40, 40), format="JPEG")[:900]
    files["train/n01/grey.JPEG"] = image_bytes(2, mode="L", format="JPEG")
    files["train/n02/cmyk.JPEG"] = image_bytes(3, mode="CMYK", format="JPEG")
    files["train/n02/leaked.JPEG"] = files["test/n02/test_1.JPEG"]
    files["val/n01/notes.txt"] = "not an image"
    files["train/n03"] = None
    files["__MACOSX/train/n01/._cut.JPEG"] = b"\0\5\26\7"
    return files


@pytest.mark.parametrize(("prefix", "tar"), [("", ""), ("tiny-imagenet-200/", "w:gz")])
def test_the_kaggle_layout_is_cleaned(cleaned, tmp_path: Path, tar: str, prefix: str) -> None:
    files = {prefix + name: content for name, content in kaggle_tiny_imagenet().items()}
    data = cleaned(files, tar=tar, clean={"max_dropped_fraction": 0.1})
    assert data.class_names == ("goldfish", "toad")
    assert [len(data.train), len(data.val), len(data.test)] == [14, 6, 4]
    assert np.bincount(data.train.labels).tolist() == [7, 7]
    assert data.train.images.shape == (14, 3, 8, 8)
    rows = manifest(tmp_path)
    assert rows[f"{prefix}train/n01/cut.JPEG"]["reason"] == "undecodable"
    assert rows[f"{prefix}train/n01/grey.JPEG"]["action"] == "kept"
    assert rows[f"{prefix}train/n02/leaked.JPEG"] == {
        "name": f"{prefix}train/n02/leaked.JPEG",
        "split": "train",
        "class": "n02",
        "action": "dropped",
        "reason": "also in test",
        "duplicate_of": f"{prefix}test/n02/test_1.JPEG",
        "detail": "",
    }
    assert rows[f"{prefix}train/n01/n01_boxes.txt"]["reason"] == "not an image"
    assert rows[f"{prefix}__MACOSX/train/n01/._cut.JPEG"]["reason"] == "system file"
    assert rows["n03/"]["reason"] == "empty class"
    assert len(rows) == len(files)
    assert metrics(tmp_path) == {
        "found": 26,
        "kept": 24,
        "ignored": 6,
        "dropped_fraction": 2 / 26,
        "classes": 2,
        "classes_left_out": 1,
        "dropped": {
            "undecodable": 1,
            "unknown_pixel_range": 0,
            "too_many_pixels": 0,
            "duplicate": 0,
            "conflicting_label": 0,
            "also_in_val": 0,
            "also_in_test": 1,
            "near_duplicate": 0,
            "near_duplicate_with_conflicting_label": 0,
            "near_duplicate_in_val": 0,
            "near_duplicate_in_test": 0,
            "class_without_training_images": 0,
        },
        "images": {"train": 14, "val": 6, "test": 4},
        "bit_depth": 0,
        "notes": {"broken_metadata": 0, "entirely_transparent": 0, "unused_transparency": 0},
        "near_duplicates": {"within_a_split": 0, "across_splits": 0, "conflicting_labels": 0},
        "quality": {
            "dark": 0,
            "bright": 0,
            "low_information": 0,
            "blurry": 0,
            "odd_aspect_ratio": 0,
            "odd_size": 0,
        },
    }
    dataset = json.loads((tmp_path / "clean/dataset.json").read_text())
    assert dataset["class_folders"] == ["n01", "n02"]


def test_the_official_layout_gets_a_test_split_cut_from_train(cleaned, tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {
        f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{n}.JPEG": image_bytes(100 * label + n, format="JPEG")
        for label, wnid in enumerate(("n1", "n2"))
        for n in range(10)
    }
    for n in range(4):
        files[f"tiny-imagenet-200/val/images/val_{n}.JPEG"] = image_bytes(300 + n, format="JPEG")
        files[f"tiny-imagenet-200/test/images/test_{n}.JPEG"] = image_bytes(400 + n, format="JPEG")
    files["tiny-imagenet-200/val/val_annotations.txt"] = "".join(
        f"val_{n}.JPEG\tn{n % 2 + 1}\t0\t0\t9\t9\n" for n in range(4)
    )
    files["tiny-imagenet-200/words.txt"] = "n1\tcrane\nn2\tcrane, bird\n"
    data = cleaned(files, clean={"test_fraction": 0.3})
    assert data.class_names == ("crane (n1)", "crane (n2)")
    assert [len(data.train), len(data.val), len(data.test)] == [14, 4, 6]
    assert data.val.labels.tolist() == [0, 1, 0, 1]
    assert manifest(tmp_path)["tiny-imagenet-200/test/images/test_0.JPEG"]["reason"] == "no label"


def test_pixels_and_labels_arrive_unchanged_at_the_same_size(cleaned, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files: dict[str, bytes | str | None] = {}
    originals = {}
    for label in range(2):
        for number in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "one.png")
            files[f"{'ab'[label]}/{number}.png"] = (tmp_path / "one.png").read_bytes()
            originals[pixels.transpose(2, 0, 1).tobytes()] = label
    data = cleaned(files)
    arrived = {
        image.tobytes(): label
        for split in (data.train, data.val, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    }
    assert arrived == originals


def test_grey_images_are_packed_when_the_params_ask_for_one_channel(cleaned) -> None:
    assert cleaned(class_folders(), channels=1, image_size=4).train.images.shape[1:] == (1, 4, 4)


def test_duplicates_and_conflicting_labels_are_counted_apart(cleaned, tmp_path: Path) -> None:
    files = class_folders() | {"cats/99.png": image_bytes(0), "dogs/98.png": image_bytes(1)}
    assert image_bytes(0) == files["cats/00.png"]
    cleaned(files, clean={"max_dropped_fraction": 0.2})
    rows = manifest(tmp_path)
    assert (rows["cats/99.png"]["reason"], rows["cats/99.png"]["duplicate_of"]) == ("duplicate", "cats/00.png")
    assert (rows["dogs/98.png"]["reason"], rows["dogs/98.png"]["duplicate_of"]) == ("conflicting label", "cats/01.png")
    assert (metrics(tmp_path)["dropped"]["duplicate"], metrics(tmp_path)["dropped"]["conflicting_label"]) == (1, 1)


def test_the_same_image_in_another_file_format_is_a_duplicate(cleaned, tmp_path: Path) -> None:
    files = class_folders() | {"cats/copy.bmp": image_bytes(0, format="BMP")}
    cleaned(files)
    assert manifest(tmp_path)["cats/copy.bmp"]["duplicate_of"] == "cats/00.png"


def test_the_same_input_gives_the_same_bytes_whatever_the_order_and_hash_seed(tmp_path: Path) -> None:
    files = class_folders(classes=("a", "b", "c"))
    outputs = []
    script = (
        "import sys; from pathlib import Path; from tests.data.conftest import clean_raw; "
        "from vitprune.data.options import DataOptions; "
        "clean_raw(Path(sys.argv[1]), DataOptions.model_validate_json(sys.argv[2]))"
    )
    for order in (files, dict(reversed(files.items()))):
        archive = write_zip(tmp_path / "images.zip", order)
        data = fetch_raw(tmp_path / "raw", path=str(archive))
        if order is files:
            clean_raw(tmp_path, data)
        else:
            # Python's hash seed, and with it the order of sets, is fixed when a process starts.
            command = [sys.executable, "-c", script, str(tmp_path), data.model_dump_json()]
            subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
        outputs.append(contents(tmp_path / "clean") | {"metrics": (tmp_path / "clean.json").read_bytes()})
    assert outputs[0] == outputs[1]
    assert sorted(outputs[0]) == sorted(
        [".made-by-vitprune", "dataset.json", "manifest.csv", "metrics", "near_duplicates.csv", "quality.csv"]
        + [f"{s}_{k}.npy" for s in ("train", "val", "test") for k in ("images", "labels")]
    )


def test_too_many_dropped_images_write_nothing_and_leave_the_old_output(cleaned, tmp_path: Path) -> None:
    cleaned(class_folders())
    before = contents(tmp_path / "clean")
    files = class_folders() | {"cats/bad1.png": b"broken", "cats/bad2.png": b"broken", "cats/again.png": image_bytes(0)}
    with pytest.raises(
        DataError,
        match=r"3 of 23 images \(13\.0%\) would be dropped, most of them as undecodable \(2\).*clean\.max_dropped",
    ):
        cleaned(files)
    assert contents(tmp_path / "clean") == before
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    "files",
    [
        {"train/birds/readme.txt": "no images"},
        {"train/birds/1.png": b"broken"},
        {"val/birds/1.png": image_bytes(901)},
        {"test/birds/1.png": image_bytes(901), "train/birds/1.png": image_bytes(901)},
    ],
    ids=["texts only", "all corrupt", "only in val", "leaked into test"],
)
def test_a_class_without_training_images_is_an_error_or_is_left_out(cleaned, tmp_path: Path, files) -> None:
    splits = class_folders("train/") | class_folders("val/") | class_folders("test/")
    with pytest.raises(DataError, match=r"no training image is left of class birds.*clean\.empty_classes: drop"):
        cleaned(splits | files, clean=GENEROUS)
    data = cleaned(splits | files, clean=GENEROUS | {"empty_classes": "drop"})
    assert data.class_names == ("cats", "dogs")
    assert sum(map(len, (data.train, data.val, data.test))) == 60
    assert metrics(tmp_path)["classes_left_out"] == 1
    assert {row["action"] for row in manifest(tmp_path).values() if row["class"] == "birds"} <= {"dropped"}


def test_an_empty_class_folder_is_left_out_and_said_so(cleaned, caplog, tmp_path: Path) -> None:
    caplog.set_level("INFO", "vitprune")
    data = cleaned(class_folders() | {"birds": None})
    assert data.class_names == ("cats", "dogs")
    assert "class folder birds holds no files and is left out" in caplog.text
    assert manifest(tmp_path)["birds/"]["action"] == "ignored"


def test_one_class_is_not_enough(cleaned) -> None:
    one = class_folders(classes=("cats",))
    for files in (one, one | {"dogs": None}, one | {"dogs/1.txt": ""}):
        with pytest.raises(DataError, match=r"classes .*'cats'.*at least two"):
            cleaned(files, clean={"empty_classes": "drop"})


@pytest.mark.parametrize(("split", "fraction"), [("val", 0.0), ("test", 0.01)])
def test_a_split_that_is_neither_there_nor_cut_is_an_error(cleaned, split: str, fraction: float) -> None:
    with pytest.raises(DataError, match=rf"no {split} images.*clean\.{split}_fraction \({fraction}\)"):
        cleaned(class_folders(), clean={f"{split}_fraction": fraction})


def test_a_split_whose_images_are_all_dropped_is_an_error(cleaned) -> None:
    files = class_folders("train/") | class_folders("test/") | {"val/cats/1.png": b"broken"}
    with pytest.raises(DataError, match="all images of the source's val split were dropped"):
        cleaned(files)


def test_fractions_do_not_touch_splits_that_are_there(cleaned) -> None:
    data = cleaned(
        class_folders("train/") | class_folders("val/") | class_folders("test/"),
        clean={"val_fraction": 0.0, "test_fraction": 0.0},
    )
    assert [len(data.train), len(data.val), len(data.test)] == [20, 20, 20]


def test_links_in_an_archive_are_ignored(tmp_path: Path) -> None:
    archive = tmp_path / "links.tar"
    write_tar(archive, class_folders())
    with tarfile.open(archive, "a") as tar:
        link = tarfile.TarInfo("cats/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "00.png"
        tar.addfile(link)
        late = tarfile.TarInfo("cats/zz.png")
        late.size = len(image_bytes(77))
        tar.addfile(late, io.BytesIO(image_bytes(77)))
    clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(archive)))
    assert manifest(tmp_path)["cats/link.png"]["reason"] == "link"
    assert manifest(tmp_path)["cats/zz.png"]["action"] == "kept"


def test_an_unknown_layout_names_the_archive(cleaned) -> None:
    with pytest.raises(DataError, match=r"images\.archive: loose\.png lies outside class folders; expected are"):
        cleaned(class_folders() | {"loose.png": image_bytes(5)})


def test_the_commands_take_digits_from_the_bundled_file_to_packed_data(tmp_path: Path, params_file) -> None:
    fractions = {"val_fraction": 0.15, "test_fraction": 0.25}
    params = params_file(source="digits", path=None, channels=1, clean=fractions)
    download_command(params, tmp_path / "raw")
    clean_command(params, tmp_path / "raw", tmp_path / "clean", tmp_path / "clean.json")
    data = load_packed(tmp_path / "clean")
    assert data.class_names == tuple("0123456789")
    assert [len(data.train), len(data.val), len(data.test)] == [1078, 270, 449]
    assert (data.image_size, data.channels) == (8, 1)
    assert data.train.images.max() == 255
    assert metrics(tmp_path)["kept"] == 1797


def test_progress_is_reported_up_to_the_end(tmp_path: Path) -> None:
    data = fetch_raw(tmp_path / "raw", path=str(write_zip(tmp_path / "images.zip", class_folders())))
    seen = []
    clean(tmp_path / "raw", tmp_path / "clean", data, clean_params(), lambda *step: seen.append(step))
    assert seen == [(done, 20) for done in range(1, 21)]
