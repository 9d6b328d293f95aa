"""One class has one name, however it is written."""

import os
import unicodedata
from pathlib import Path

import pytest

from tests.data.conftest import clean_raw, fetch_raw, image_bytes, write_tar, write_zip
from vitprune.errors import DataError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
ONE_NAME = "one name in two forms of Unicode is one class"


def images(*names: str, count: int = 8) -> dict[str, bytes]:
    return {
        f"{name}/{number}.png": image_bytes(1000 * label + number)
        for label, name in enumerate(names)
        for number in range(count)
    }


@pytest.mark.fault("class folders that a Mac and Linux spell in different forms of Unicode", ONE_NAME)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_one_name_in_two_forms_of_unicode_is_one_class(tmp_path: Path, write) -> None:
    files = images(f"train/{DECOMPOSED}", "train/b", f"val/{COMPOSED}", "val/b")
    data = clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(write(tmp_path / "images", files))))
    assert data.class_names == ("b", COMPOSED)
    assert len(data.val) == 16


@pytest.mark.fault("one class in two folders whose names differ in the form of Unicode only", ONE_NAME)
def test_two_folders_of_one_name_become_one_class(tmp_path: Path) -> None:
    for name, content in images(DECOMPOSED, COMPOSED, "b").items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
    data = clean_raw(tmp_path, fetch_raw(tmp_path / "raw", source="folder", path=str(tmp_path / "images")))
    assert data.class_names == ("b", COMPOSED)
    assert sum(map(len, (data.train, data.val, data.test))) == 24


@pytest.mark.fault("annotations and words that spell a class in another form of Unicode than its folder", ONE_NAME)
def test_texts_may_spell_a_class_in_another_form_of_unicode(tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {
        **images(f"train/{COMPOSED}", "train/b"),
        **{f"val/{number}.png": image_bytes(5000 + number) for number in range(4)},
        "val/val_annotations.txt": "".join(f"{number}.png\t{(DECOMPOSED, 'b')[number % 2]}\n" for number in range(4)),
        "words.txt": f"{DECOMPOSED}\tcoffee\n",
    }
    data = clean_raw(tmp_path, fetch_raw(tmp_path / "raw", path=str(write_zip(tmp_path / "images.zip", files))))
    assert data.class_names == ("b", "coffee")
    assert data.val.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.fault(
    "class folders whose names differ only in case or spaces (Cat and cat)",
    "one sentence names both and says to rename one",
)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("cat", "cat "),
        ("tabby cat", "tabby  cat"),
        ("cat", "cat\u200b"),
        ("É", "é"),
        ("a b", "a\u00a0b"),
    ],
)
@pytest.mark.parametrize(("first", "second"), [("", ""), ("train/", "val/")])
def test_class_folders_that_look_alike_are_refused(
    tmp_path: Path, one: str, other: str, first: str, second: str
) -> None:
    files = images(f"{first}{one}", f"{first}dogs", f"{second}{other}", f"{second}dogs")
    data = fetch_raw(tmp_path / "raw", path=str(write_zip(tmp_path / "images.zip", files)))
    with pytest.raises(DataError, match="differ only in case, spaces or invisible characters; if they") as raised:
        clean_raw(tmp_path, data, max_dropped_fraction=1, empty_classes="drop")
    assert f"class folders {min(one, other)!r} and {max(one, other)!r} differ" in str(raised.value)
    assert not (tmp_path / "clean").exists()


@pytest.mark.fault("line ends, control characters and broken bytes in names", "readable escapes, and never a crash")
def test_characters_that_cannot_be_shown_become_escapes(tmp_path: Path) -> None:
    names = ["two\nlines", "bell\x07", "esc\x1b[31m", os.fsdecode(b"caf\xe9"), "next\u2028line"]
    for label, name in enumerate(names):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(8):
            (folder / f"{number}\n.png").write_bytes(image_bytes(1000 * label + number))
    data = clean_raw(tmp_path, fetch_raw(tmp_path / "raw", source="folder", path=str(tmp_path / "images")))
    escapes = {"two\\nlines", "bell\\x07", "esc\\x1b[31m", "caf\\udce9", "next\\u2028line"}
    assert set(data.class_names) == escapes
    manifest = (tmp_path / "clean/manifest.csv").read_text("utf-8").splitlines()
    assert len(manifest) == 1 + 8 * len(names)
    assert "two\\nlines/0\\n.png,train,two\\nlines,kept,,," in manifest


@pytest.mark.fault("a folder with a backslash in its name", "it is refused, and not split into two folders")
def test_a_folder_with_a_backslash_in_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images/ac\\dc").mkdir(parents=True)
    (tmp_path / "images/ac\\dc/1.png").write_bytes(image_bytes(0))
    with pytest.raises(DataError, match=r"has a backslash in its name; rename it"):
        fetch_raw(tmp_path / "raw", source="folder", path=str(tmp_path / "images"))


def test_names_in_other_scripts_survive(tmp_path: Path) -> None:
    names = ("Übergröße", "猫", "кошка", "गाय", "نیم‌فاصله", "🐈", "a, b; 'c' \"d\"", "#1 & 100%")
    data = fetch_raw(tmp_path / "raw", path=str(write_zip(tmp_path / "images.zip", images(*names))))
    assert set(clean_raw(tmp_path, data).class_names) == {unicodedata.normalize("NFC", name) for name in names}
