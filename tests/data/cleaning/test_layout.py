from itertools import product

import pytest

from vitprune.data.cleaning.collection import Layout
from vitprune.data.cleaning.layout import find_layout
from vitprune.errors import DataError


def layout(*files: str, folders: tuple[str, ...] = (), texts: dict[str, str] | None = None) -> Layout:
    return find_layout(list(files), folders, texts or {})


def placed(found: Layout) -> list[tuple[str, str, str]]:
    return [(image.name.rsplit("/", 1)[-1], image.split, image.folder) for image in found.images]


SPLIT = ("train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/4.png")
PLACED = [("4.png", "test", "b"), ("1.png", "train", "a"), ("2.png", "train", "b"), ("3.png", "val", "a")]


def test_class_folders_without_splits_are_all_train() -> None:
    found = layout("dogs/1.png", "cats/2.JPG", "cats/deep/er/3.jpeg")
    assert placed(found) == [("2.JPG", "train", "cats"), ("3.jpeg", "train", "cats"), ("1.png", "train", "dogs")]
    assert list(found.class_names) == ["cats", "dogs"]


def test_splits_are_found_below_common_folders() -> None:
    for prefix in ("", "tiny-imagenet-200/", "one/two/three/"):
        assert placed(layout(*(prefix + name for name in SPLIT))) == PLACED


def test_splits_have_synonyms_in_any_case() -> None:
    for train, val, test in product(("train", "Training"), ("val", "Valid", "VALIDATION", "dev"), ("test", "Testing")):
        found = layout(f"{train}/a/1.png", f"{train}/b/2.png", f"{val}/a/3.png", f"{test}/b/4.png")
        assert sorted(placed(found)) == sorted(PLACED)


def test_a_class_may_keep_its_images_in_a_folder_of_its_own() -> None:
    found = layout(*(name.replace("a/", "a/images/").replace("b/", "b/images/") for name in SPLIT))
    assert placed(found) == PLACED
    assert list(layout("x/images/1.png", "y/images/1.png").class_names) == ["x", "y"]


@pytest.mark.parametrize("wrapper", ["train", "images", "data"])
def test_a_split_may_wrap_its_classes_once_more(wrapper: str) -> None:
    found = layout(
        *(f"train/{wrapper}/{name}" for name in ("a/1.png", "b/2.png")),
        "val/a/3.png",
        *(f"test/{wrapper}/{name}" for name in ("a/5.png", "b/4.png")),
    )
    assert {(split, folder) for _, split, folder in placed(found)} == {
        ("train", "a"),
        ("train", "b"),
        ("val", "a"),
        ("test", "a"),
        ("test", "b"),
    }


def test_trains_may_be_a_class() -> None:
    assert list(layout("train/1.png", "car/1.png", "dev/2.png").class_names) == ["car", "dev", "train"]


def test_system_files_texts_and_other_files_are_ignored_with_a_reason() -> None:
    found = layout(
        *SPLIT, "__MACOSX/train/a/._1.png", "train/a/._1.png", "train/a/.DS_Store", "val/Thumbs.db",
        "train/a/a_boxes.txt", "words.txt", "train/notes.md",
    )  # fmt: skip
    assert placed(found) == PLACED
    assert {(file.name, file.reason) for file in found.ignored} == {
        ("__MACOSX/train/a/._1.png", "system file"),
        ("train/a/._1.png", "system file"),
        ("train/a/.DS_Store", "system file"),
        ("val/Thumbs.db", "system file"),
        ("train/a/a_boxes.txt", "not an image"),
        ("words.txt", "not an image"),
        ("train/notes.md", "not an image"),
    }


def test_the_official_tiny_imagenet_has_annotations_for_val_and_no_labels_for_test() -> None:
    found = layout(
        "t/train/n1/images/n1_0.JPEG",
        "t/train/n2/images/n2_0.JPEG",
        "t/val/images/val_0.JPEG",
        "t/val/images/val_1.JPEG",
        "t/val/val_annotations.txt",
        "t/test/images/test_0.JPEG",
        texts={"t/val/val_annotations.txt": "val_0.JPEG\tn2\t0\t32\t44\t62\nval_1.JPEG\tn1\t0\t1\t2\t3\n"},
    )
    assert placed(found) == [
        ("n1_0.JPEG", "train", "n1"),
        ("n2_0.JPEG", "train", "n2"),
        ("val_0.JPEG", "val", "n2"),
        ("val_1.JPEG", "val", "n1"),
    ]
    assert ("t/test/images/test_0.JPEG", "no label") in [(file.name, file.reason) for file in found.ignored]
    assert list(found.class_names) == ["n1", "n2"]


@pytest.mark.fault("annotations that leave out an image or its class", "one sentence names the file and the line")
def test_annotations_must_name_every_image_and_its_class() -> None:
    files = ("train/a/1.png", "train/b/1.png", "val/images/1.png", "val/val_annotations.txt")
    with pytest.raises(DataError, match=r"val_annotations\.txt: has no line for val/images/1\.png"):
        layout(*files, texts={"val/val_annotations.txt": "2.png\ta"})
    with pytest.raises(DataError, match="without a class"):
        layout(*files, texts={"val/val_annotations.txt": "1.png a"})


def test_words_beside_the_splits_or_above_give_readable_names() -> None:
    words = "\ufeffn1\tgoldfish, Carassius auratus\nn2\ttabby\n\nn9\tunused\nno tab"
    files = [f"top/data/{split}/n{n}/1.png" for split in ("train", "val") for n in (1, 2, 3)]
    for where in ("words.txt", "top/words.txt", "top/data/words.txt"):
        found = layout(*files, texts={where: words})
        assert dict(found.class_names) == {"n1": "goldfish", "n2": "tabby", "n3": "n3"}


def test_classes_that_would_share_a_name_keep_their_folder_beside_it() -> None:
    found = layout("n1/1.png", "n2/1.png", "crab/1.png", texts={"words.txt": "n1\tcrane, bird\nn2\tcrane\n"})
    assert list(found.class_names.items()) == [("crab", "crab"), ("n1", "crane (n1)"), ("n2", "crane (n2)")]


def test_folders_without_any_file_are_empty_and_folders_with_texts_are_classes() -> None:
    found = layout(
        *SPLIT, "train/texts/readme.txt", folders=("train", "train/a", "train/empty", "val/empty", "train/.hidden")
    )
    assert found.empty_folders == ("empty",)
    assert list(found.class_names) == ["a", "b", "texts"]


def test_a_class_that_has_files_in_one_split_is_not_empty() -> None:
    found = layout(*SPLIT, "val/c/5.png", folders=("train/c",))
    assert found.empty_folders == ()
    assert "c" in found.class_names


@pytest.mark.fault("images outside class folders", "one sentence names one of them and the layout that is expected")
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a/1.png", "b/1.png", "loose.png"), "loose.png lies outside class folders"),
        (("1.png", "2.png"), "1.png and 1 more images lie outside class folders"),
        (("train/a/1.png", "train/b/1.png", "train/3.png"), "train/3.png lies outside class folders"),
        (("train/a/1.png", "train/b/1.png", "extra/3.png"), "extra/3.png lies outside the splits 'train'"),
        (("train/a/1.png", "train/b/1.png", "val/3.png"), "no val_annotations.txt"),
        (("val/a/1.png", "test/a/1.png"), "no train folder with class folders"),
        (("train/1.png", "test/2.png"), "no train folder with class folders"),
        (("x/train/a/1.png", "x/train/b/1.png", "y/2.png"), "in a split folder"),
        (("cats/train/1.png", "dogs/train/1.png"), "in a split folder"),
    ],
)
def test_a_layout_without_classes_is_refused_with_what_is_expected(files: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match="expected are class folders") as raised:
        layout(*files)
    assert message in str(raised.value)


@pytest.mark.fault("two folders for one split", "one sentence names both")
def test_two_folders_for_one_split_are_refused() -> None:
    with pytest.raises(DataError, match="'val', 'valid' are all the val split"):
        layout(*SPLIT, "valid/a/5.png")


@pytest.mark.fault("a source without images", "one sentence says so")
def test_a_source_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="no images among 2 files"):
        layout("cats/1.txt", "dogs/1.txt")


def test_files_of_the_same_name_stay_apart() -> None:
    found = layout("a/1.png", "b/1.png", "a/1.png")
    assert [image.position for image in found.images] == [0, 2, 1]
